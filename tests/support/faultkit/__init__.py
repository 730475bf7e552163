"""A kit that stops, kills and delays real parts while jobs are submitted, and counts what became of each."""
