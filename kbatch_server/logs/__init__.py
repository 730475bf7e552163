"""Records the logs of jobs while they run, and lets users read, follow and search them."""
