"""The database: its connections, transactions and locks, for SQLite and PostgreSQL."""
