"""The database: its connections, transactions and locks, and how each kind of it is spoken to."""
