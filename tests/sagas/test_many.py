"""Many sagas that have ended, or that wait for something else: nothing that is done all the time looks at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from fissile.database._saga_care import NEEDS_A_PERSON, find
from fissile.database._saga_rows import SagaState, add_event, claim, goes_on, next_due, renew
from fissile.database._tables import runtime_tables

COUNT = 20_000
WORK = 20_000
"""How many instructions of SQLite's machine a statement may take; to look at each of the sagas takes three times as many at least."""

NAMES = ("checkout", "other")
FAILED: tuple[SagaState, ...] = ("failed",)
WHAT: dict[str, Callable[[Connection], object]] = {
    "asking what is due": lambda connection: next_due(connection, NAMES, 10),
    "taking what is due": lambda connection: claim(connection, NAMES, "me", 5000, 10, 100),
    "keeping what is taken": lambda connection: renew(connection, "me", 5000, [("checkout", "s7")]),
    "asking whether one goes on": lambda connection: goes_on(connection, ("checkout",)),
    "storing an event": lambda connection: add_event(connection, "t", b"none", ("m", b"", "m1"), 10),
    "listing": lambda connection: find(connection, first=NEEDS_A_PERSON, limit=20),
    "listing those of a name": lambda connection: find(connection, name="checkout", limit=20),
    "listing those that failed": lambda connection: find(connection, name="checkout", states=FAILED, limit=20),
}
FILL = """
INSERT INTO fissile_saga (name, saga_id, run, message, body, message_id, status, is_undoing, epoch, due_ms, waits_topic, waits_key,
                          first_seq, started_ms, updated_ms, ended_ms)
SELECT {name}, 's' || i, 'r', 'm', {nothing}, 'm', {status}, {false}, 1, {due}, 't', {nothing}, 0, i, i, {ended} FROM {numbers}
"""
SQLITE = {
    "false": "0",
    "nothing": "x''",
    "numbers": f"(WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {COUNT}) SELECT i FROM r)",
}
POSTGRESQL = {"false": "false", "nothing": "''::bytea", "numbers": f"generate_series(1, {COUNT}) AS g(i)"}
ENDED = {"name": "'checkout'", "status": "'completed'", "due": "CAST(NULL AS BIGINT)", "ended": "i"}
WAITING = {"name": "'other'", "status": "'waiting'", "due": "1000 + i", "ended": "CAST(NULL AS BIGINT)"}


@pytest.fixture(scope="module")
def postgresql(postgres: str) -> Iterator[Engine]:
    """A schema with many sagas."""
    engine = create_engine(
        postgres.replace("postgresql://", "postgresql+psycopg://"),
        connect_args={"options": "-c search_path=many_sagas"},
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA many_sagas")
        _fill(connection, POSTGRESQL)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE fissile_saga")
    yield engine
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA many_sagas CASCADE")
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Engine]:
    """A file with many sagas, without statistics, as it is where nobody has asked for them."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        _fill(connection, SQLITE)
    yield engine
    engine.dispose()


def _fill(connection: Connection, words: dict[str, str]) -> None:
    runtime_tables.create_all(connection)
    for kind in (ENDED, WAITING):
        connection.execute(text(FILL.format(**words, **kind)))


@pytest.mark.parametrize("what", WHAT)
def test_sqlite_does_not_look_at_all_of_them(sqlite: Engine, what: str) -> None:
    work = [0]

    def count() -> int:
        work[0] += 100
        return 0

    with sqlite.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.set_progress_handler(count, 100)
        try:
            WHAT[what](connection)
        finally:
            driver.set_progress_handler(None, 0)
        connection.rollback()
    assert work[0] < WORK


@pytest.mark.parametrize("what", WHAT)
def test_postgresql_does_not_look_at_all_of_them(postgresql: Engine, what: str) -> None:
    plans: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if not statement.startswith("EXPLAIN"):
            given = parameters[0] if isinstance(parameters, list) else parameters
            plans.extend(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", given))

    event.listen(postgresql, "before_cursor_execute", explain)
    try:
        with postgresql.connect() as connection:
            WHAT[what](connection)
            connection.rollback()
    finally:
        event.remove(postgresql, "before_cursor_execute", explain)
    assert plans
    assert [line for line in plans if "Seq Scan on fissile_saga " in line] == []
