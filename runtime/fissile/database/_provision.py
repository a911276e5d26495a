"""What a module's tables need to be in on PostgreSQL: a schema of its own, and the role that owns it.

A search path keeps the modules' names apart; the role keeps their tables apart, also where a statement names another module's schema. It guards
against slips, not against malice: whoever may take several roles can change between them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from fissile.database._dialect import Target

MAY_TAKE = """
SELECT rolname FROM pg_roles
WHERE rolname = %(role)s AND pg_has_role(session_user, oid,
  CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""
_OWNER = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s"
_MAY_CREATE = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = session_user"
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"

_CannotBe = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.UniqueViolation,
    psycopg.errors.InsufficientPrivilege,
)


def provide(connection: psycopg.Connection[Any], target: Target) -> None:  # Any: the type of rows
    """Make the schema and the role where they are missing, and take the role, within a transaction. One process at a time gets beyond this.

    Raises:
        PermissionError: The user may not.
    """
    name, role = Identifier(target.name), Identifier(target.role)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = 0")  # who migrates at the same time may take longer than a lock should
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"fissile {target.name}",))
        cursor.execute("RESET lock_timeout")
        cursor.execute("SET LOCAL ROLE NONE")
        has_role = _make_role(cursor, target)
        owner = cursor.execute(_OWNER, (target.name,)).fetchone()
        try:
            if owner is None:
                cursor.execute(SQL("CREATE SCHEMA {}").format(name))
            if has_role and (owner is None or owner[0] != target.role):
                _hand_over(cursor, target)
        except psycopg.errors.InsufficientPrivilege as error:
            user = connection.info.user
            raise PermissionError(
                f"the user {user} may not make the schema {target.name} of the module {target.module}: {str(error).strip()}. "
                f"Run `fissile migrate` as a user that may, or let one say: CREATE SCHEMA {target.name} AUTHORIZATION {user}"
            ) from error
        if has_role:
            cursor.execute(SQL("SET LOCAL ROLE {}").format(role))


def _make_role(cursor: psycopg.Cursor[Any], target: Target) -> bool:
    """Make the role where the user may, and tell whether the user may take it."""
    (may_create,) = cursor.execute(_MAY_CREATE).fetchone() or (False,)
    if may_create:
        for statement in ("CREATE ROLE {} NOLOGIN", "GRANT {} TO SESSION_USER"):
            # Roles are those of the whole server: one of this name may be there, made by another user for another database.
            with suppress(*_CannotBe), cursor.connection.transaction():
                cursor.execute(SQL(statement).format(Identifier(target.role)))
    return cursor.execute(MAY_TAKE, {"role": target.role}).fetchone() is not None


def _hand_over(cursor: psycopg.Cursor[Any], target: Target) -> None:
    """Give the schema and its tables to the role."""
    name, role = Identifier(target.name), Identifier(target.role)
    cursor.execute(SQL("ALTER SCHEMA {} OWNER TO {}").format(name, role))
    for (table,) in cursor.execute(_TABLES, (target.name,)).fetchall():
        cursor.execute(SQL("ALTER TABLE {}.{} OWNER TO {}").format(name, Identifier(table), role))


def grant(connection: psycopg.Connection[Any], target: Target, user: str) -> None:
    """Let another user be the module's role, within a transaction.

    Args:
        connection: The connection.
        target: Whose role it is.
        user: Who will run the module.

    Raises:
        PermissionError: The user who is connected may not, or there is no role.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE NONE")
            cursor.execute(SQL("GRANT {} TO {}").format(Identifier(target.role), Identifier(user)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject) as error:
        raise PermissionError(
            f"{user} cannot be given the role {target.role}: {str(error).strip()}. Run it as a user that may create roles"
        ) from error
