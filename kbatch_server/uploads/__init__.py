"""Receives the users' code, and checks its ZIPs."""
