"""Marks jobs of a forgotten user: their later usage is charged to nobody."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("is_forgotten", sa.Boolean(), nullable=False, server_default=sa.false()))
