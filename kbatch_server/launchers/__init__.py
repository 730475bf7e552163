"""What runs jobs: ``base.JobLauncher`` and its implementations."""
