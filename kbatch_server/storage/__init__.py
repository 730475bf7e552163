"""Where code, logs and results are kept: ``base.Storage`` and its implementations."""
