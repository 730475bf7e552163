"""The user who cancelled a job, and the reason."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cancelled_by", sa.Text()))
    op.add_column("jobs", sa.Column("cancel_note", sa.Text()))
