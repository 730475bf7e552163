"""Jobs that jobs submit, the progress that they report, and the ids of their tokens at the hub."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("parent", sa.String(63)))
    op.add_column("jobs", sa.Column("depth", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("children", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("progress", sa.Text()))
    op.add_column("jobs", sa.Column("hub_token", sa.String(32)))
    op.add_column("jobs", sa.Column("hub_secret", sa.LargeBinary()))
    for name, columns, condition in (
        ("ix_jobs_parent", ["user", "parent", "seq"], "parent IS NOT NULL"),
        ("ix_jobs_hub_token", ["user", "seq"], "hub_token IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
