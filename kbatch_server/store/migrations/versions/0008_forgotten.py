"""Which jobs are of a user who was forgotten: what they still use is charged to nobody."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("is_forgotten", sa.Boolean(), nullable=False, server_default=sa.false()))
