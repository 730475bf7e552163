"""What a job may be: the admin's settings and profiles, and what of the hub's settings applies to jobs."""
