"""Notebooks as jobs: checks the request, starts the notebook, and runs it in the job's image."""
