"""The stored ZIP of an upload, which may differ from the one that the user sent."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("code_size", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("uploads", sa.Column("code_sha256", sa.String(64), nullable=False, server_default=""))
    op.add_column("uploads", sa.Column("top_folder", sa.Text()))
    op.execute("UPDATE uploads SET code_size = size, code_sha256 = sha256")
