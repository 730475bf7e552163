"""Determines a job's status from Kubernetes's objects. Pure: dicts in, values out."""
