"""Kubernetes for the launcher: its API, manifests, a cache of objects, and their meaning for a job."""
