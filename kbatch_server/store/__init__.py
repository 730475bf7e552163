"""What is recorded: jobs and uploads in a database. ``JobStore`` is the way in; no SQL is outside of here."""

from .database.errors import StoreError
from .jobstore import JobStore

__all__ = ["JobStore", "StoreError"]
