"""Decides which queued job starts next, and reports a user's limits and usage."""
