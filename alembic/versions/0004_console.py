"""The console: tickets for browsers' sockets, and runs by when they ended.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Good once and for half a minute: what a crash of the server takes is asked for again.
    """
    create unlogged table ws_tickets (
      tenant     int not null,
      digest     bytea not null,
      key_id     text,
      expires_at timestamptz not null,
      constraint ws_tickets_pk primary key (tenant, digest),
      constraint ws_tickets_digest_unique unique (digest)
    )
    """,
    "create index ws_tickets_age on ws_tickets (expires_at)",
    "create index runs_ended on runs (tenant, finished_at) where finished_at is not null",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().connection.driver_connection.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only: restore a backup to go back")
