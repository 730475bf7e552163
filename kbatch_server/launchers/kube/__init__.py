"""Kubernetes for the launcher: its API, manifests, a cache of what is there, and what that means."""
