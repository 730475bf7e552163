"""The service's records in a database. ``Store`` is the interface; only this folder contains SQL."""

from .database.errors import StoreError
from .store import Store

__all__ = ["Store", "StoreError"]
