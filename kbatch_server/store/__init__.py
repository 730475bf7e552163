"""The records of the service in a database: ``Store`` is the way in, and no SQL is outside of this folder."""

from .database.errors import StoreError
from .store import Store

__all__ = ["Store", "StoreError"]
