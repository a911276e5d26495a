"""withdrawn challenges"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("challenges", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_withdrawn", sa.Boolean(), server_default=sa.false(), nullable=False))
