"""Runs jobs, in the leader: launches, watches and ends them, and keeps and removes their data."""
