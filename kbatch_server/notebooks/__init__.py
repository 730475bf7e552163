"""Notebooks as jobs: what may be asked for, what a launcher starts, and what then runs in the job's image."""
