"""The size of each job's record."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("record_bytes", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE jobs SET record_bytes = 500 + coalesce(length(env), 0) + length(spec) + length(description)"
        " + length(tags)"
    )
    op.create_index(
        "ix_jobs_record_bytes",
        "jobs",
        ["user", "record_bytes"],
        sqlite_where=sa.text("record_bytes > 0"),
        postgresql_where=sa.text("record_bytes > 0"),
    )
