"""What a module with nothing to do asks of PostgreSQL: it looks into its outbox once a second, and keeps its lease now and then."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import anyio
import pytest
from sqlalchemy import Engine, event

from fissile import App, Settings
from tests.effects.shop import Hooks, make

LOOKS = 6
LOOK, LEASE = "SELECT seq, length(body) FROM fissile_outbox WHERE due_ms IS NULL", "INSERT INTO fissile_lease"
_numbers = count(1)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements of this process, as they come."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield said
    event.remove(Engine, "before_cursor_execute", note)


async def test_an_idle_module_renews_its_lease_less_often_than_it_looks_and_waits_for_no_disk(
    postgres: str, statements: list[str]
) -> None:
    settings = Settings(database=postgres, database_prefix=f"idle{next(_numbers)}_", database_migrate=True)
    async with App([make(Hooks())], settings=settings):
        statements.clear()  # what the start has said
        with anyio.fail_after(60):
            while sum(each.startswith(LOOK) for each in statements) <= LOOKS:
                await anyio.sleep(0.05)
        said = list(statements)
    leases = [number for number, each in enumerate(said) if each.startswith(LEASE)]
    assert 1 <= len(leases) <= LOOKS / 2
    assert all(said[number - 1] == "SET LOCAL synchronous_commit = off" for number in leases)
    # Looking is three questions: what waits, what is due, and when something will be.
    others = [each for each in said if not each.startswith((LEASE, "SET LOCAL")) and "fissile_outbox" not in each]
    assert len(others) <= 2, others
