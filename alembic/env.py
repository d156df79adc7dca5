"""Runs the migrations on the URL that `durable_agent.migrate` hands over, or on DATABASE_DIRECT_URL."""

import os

import psycopg
from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.attributes.get("url") or os.environ.get("DATABASE_DIRECT_URL") or os.environ["DATABASE_URL"]


def connect() -> psycopg.Connection:
    """Return a connection whose weeks are UTC's: the server's own zone may have days of 23 hours."""
    made = psycopg.connect(url, autocommit=True, client_encoding="utf8")
    made.execute("set timezone = 'UTC'")
    made.autocommit = False
    return made


# The URL is libpq's, in either of its forms; so libpq opens the connection, not SQLAlchemy's own parser.
engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
