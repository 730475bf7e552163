"""Runs jobs as processes of this machine. Empty: a supervisor starts with the standard library alone."""
