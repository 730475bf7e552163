"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ACTIVE = sa.text(
    "status NOT IN ('succeeded', 'failed', 'cancelled')"
    " OR delete_requested_at IS NOT NULL"
    " OR (launch_begun_at IS NOT NULL AND cleaned_at IS NULL)"
)
MOMENT = sa.DateTime(timezone=True)
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("env", sa.LargeBinary()),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("launch_begun_at", MOMENT),
        sa.Column("launched_at", MOMENT),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("cleaned_at", MOMENT),
        sa.Column("cancel_requested_at", MOMENT),
        sa.Column("delete_requested_at", MOMENT),
        sa.Column("pods", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("upload", sa.String(64)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        sa.PrimaryKeyConstraint("seq", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("user", "idempotency_key", name="uq_jobs_user_idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_active", "jobs", ["seq"], sqlite_where=ACTIVE, postgresql_where=ACTIVE)
    op.create_index("ix_jobs_name", "jobs", ["user", "name", "seq"])
    op.create_index("ix_jobs_page", "jobs", ["user", "seq", "created_at"])
    op.create_index("ix_jobs_status", "jobs", ["user", "status", "seq", "delete_requested_at"])
    op.create_index("ix_jobs_upload", "jobs", ["upload"])

    op.create_table(
        "job_tags",
        sa.Column("job_seq", SEQUENCE, nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name="fk_job_tags_job_seq", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "key", name="pk_job_tags"),
    )
    op.create_index("ix_job_tags_find", "job_tags", ["user", "key", "value", "job_seq"])

    op.create_table(
        "uploads",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("delete_requested_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_content", "uploads", ["user", "sha256"])
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
