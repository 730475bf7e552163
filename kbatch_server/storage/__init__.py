"""Stores code, logs and results: ``base.Storage`` and its implementations."""
