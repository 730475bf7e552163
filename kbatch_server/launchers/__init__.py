"""Runs jobs: ``base.JobLauncher`` and its implementations."""
