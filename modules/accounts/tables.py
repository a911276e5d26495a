"""The tables of the accounts. Of passwords and tokens they have hashes only; of the keys that tokens are signed with, the private part, too."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("name", String(30), primary_key=True),
    Column("password", String(255), nullable=False),
    # The id of the command that has set the password: one that is repeated is known by it.
    Column("password_by", Text, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

# One row for each password that was wrong, or is being checked; also for names that nobody has.
attempts = Table(
    "attempts",
    metadata,
    Column("name", String(30), primary_key=True),
    Column("command", Text, primary_key=True),
    Column("at", Float, nullable=False),
    # Under whom it is counted: a device that has signed in before, somebody who is signed in, or everybody else (see devices.py).
    Column("source", String(40), nullable=False, server_default=""),
    Index("attempts_at", "at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(30), ForeignKey("accounts.name"), nullable=False),
    # With it the successor of a refresh token is made of that token, so that a repeat gets the same one.
    Column("seed", String(64), nullable=False),
    Column("current", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("sessions_name", "name"),
    Index("sessions_expires_at", "expires_at"),
)

# All refresh tokens of a session, by their SHA-256, the spent ones too.
refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("session", String(32), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("spent_at", Float, nullable=True),
    Column("spent_by", Text, nullable=True),
    Index("refresh_tokens_session", "session"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(30), ForeignKey("accounts.name"), nullable=False),
    Column("name", String(60), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=True),
    Column("last_used_at", Float, nullable=True),
    Index("api_tokens_owner", "owner"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kid", String(64), nullable=False),
    Column("private", Text, nullable=False),
    Column("public", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("active_at", Float, nullable=False),
)
