"""Limits, turns and usage."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
WAITING = "status = 'queued' AND launch_begun_at IS NULL AND delete_requested_at IS NULL"
DUE = "delete_requested_at IS NOT NULL OR (launch_begun_at IS NOT NULL AND cleaned_at IS NULL)"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rank", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("ix_jobs_active", "jobs")
    for name, columns, words in (
        (
            "ix_jobs_waiting",
            ["user", "status", "rank", "seq", "launch_begun_at", "delete_requested_at"],
            WAITING,
        ),
        ("ix_jobs_due", ["user", "seq"], DUE),
    ):
        op.create_index(name, "jobs", columns, sqlite_where=sa.text(words), postgresql_where=sa.text(words))
    op.create_table(
        "queued_groups",
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("job_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_seq"], ["jobs.seq"], name="fk_queued_groups_job_seq", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group", "job_seq", name="pk_queued_groups"),
    )
    op.create_table(
        "monthly_use",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "month", name="pk_monthly_use"),
    )
    op.create_table(
        "recent_use",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("amount", sa.Float(), nullable=False),
        sa.Column("as_of", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("user", name="pk_recent_use"),
    )
    op.create_table(
        "waits",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user", name="pk_waits"),
    )
