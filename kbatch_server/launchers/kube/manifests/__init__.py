"""The manifests of what a job needs. Pure: values in, dicts out."""
