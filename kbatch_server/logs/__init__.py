"""The logs of jobs: recorded while they run, read, followed and searched."""
