"""What drives the jobs, in the process that leads."""
