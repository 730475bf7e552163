"""Where settings come from, and that they are right."""
