"""Whose turn it is, and where a user stands."""
