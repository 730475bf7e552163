"""The hub as the service asks it: users' servers and their homes, and tokens for jobs."""
