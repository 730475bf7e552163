"""What Kubernetes's objects say about a job. Pure: dicts in, values out."""
