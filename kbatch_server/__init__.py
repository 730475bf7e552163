"""A JupyterHub service that runs a hub user's code as a batch job."""

__version__ = "0.1.0.dev0"
