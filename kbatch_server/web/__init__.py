"""HTTP that knows nothing of jobs."""
