"""Alembic runs this to migrate, on the connection and in the transaction of the caller (``database``)."""

from alembic import context

from kbatch_server.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
