"""The judge of the crash tests finds what must not be, each kind of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from tests.crashes.history import Op
from tests.crashes.judge import judge
from tests.crashes.modules import has_reminder, is_poison, is_sold_out
from tests.crashes.state import EndState, Entry, Order, Seen

NUMBERS = [number for number in range(8) if not is_sold_out(number)]


def ops() -> list[Op]:
    """A run in which all went well: two keys, one of which was repeated, and one declared error."""
    found: list[Op] = []
    for key in ("a", "b"):
        for number in range(8):
            name, what = f"{key}/{number}", "declared" if is_sold_out(number) else "reply"
            found.append(Op(1.0, "ask", name, key, number))
            found += [Op(2.0, what, name, key, number, value=f"token of {name}")] * 2  # type: ignore[arg-type]  # one of two
    return found


def state() -> EndState:
    """What such a run leaves."""
    orders = [
        Order(f"{key}/{number}", key, number, f"token of {key}/{number}") for key in ("a", "b") for number in NUMBERS
    ]
    seen = [Seen(f"id of {order.message_id}", order.message_id, order.key, order.number) for order in orders]
    return EndState(
        orders=orders,
        reminders=[order.message_id for order in orders if has_reminder(order.number)],
        entries=[Entry(order.message_id, order.key, order.number, order.token) for order in orders],
        ticks=["one", "two"],
        noted_ticks=2,
        seen=[*seen, seen[0]],  # what is stored twice has one id
    )


def test_a_run_in_which_all_went_well_has_no_anomalies() -> None:
    assert judge(ops(), state()) == []


def _without(rows: Any, index: int) -> list[Any]:
    return [row for number, row in enumerate(rows) if number != index]


def _swapped(rows: Any) -> list[Any]:
    first, second, *rest = rows
    return [second, first, *rest]


DAMAGE: dict[str, Callable[[EndState], dict[str, Any]]] = {
    "lost effect": lambda good: {"orders": _without(good.orders, 0)},
    "effect twice": lambda good: {"orders": [*good.orders, good.orders[0]]},
    "effect of nothing": lambda good: {"orders": [*good.orders, Order("c/0", "c", 0, "")]},
    "effect of an error": lambda good: {"orders": [*good.orders, Order("b/3", "b", 9, "")]},
    "lost event": lambda good: {"entries": _without(good.entries, 0)},
    "event twice": lambda good: {"entries": [*good.entries, good.entries[0]]},
    "event of nothing": lambda good: {"seen": [*good.seen, Seen("x", "x/1", "x", 1)]},
    "lost reminder": lambda good: {"reminders": good.reminders[1:]},
    "reminder twice": lambda good: {"reminders": [*good.reminders, good.reminders[0]]},
    "lost tick": lambda good: {"noted_ticks": 3},
    "tick twice": lambda good: {"ticks": ["one", "two", "two"]},
    "out of order": lambda good: {"entries": _swapped(good.entries)},
    "dead letter": lambda good: {"letters": ["a/5"]},
    "outbox": lambda good: {"waiting": 1},
    "offsets": lambda good: {"behind": ["ledger is at 1 of 2"]},
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_is_found(kind: str) -> None:
    good = state()
    assert kind in {anomaly.kind for anomaly in judge(ops(), attrs.evolve(good, **DAMAGE[kind](good)))}


def test_an_event_that_the_ledger_published_under_two_ids_is_found() -> None:
    good = state()
    again = attrs.evolve(good.seen[0], id="another")
    assert [anomaly.kind for anomaly in judge(ops(), attrs.evolve(good, seen=[*good.seen, again]))].count(
        "event twice"
    ) == 1


def test_a_repeat_that_comes_to_something_else_is_found() -> None:
    history = [*ops(), Op(3.0, "reply", "a/0", "a", 0, value="another")]
    assert "another outcome" in {anomaly.kind for anomaly in judge(history, state())}


def test_a_command_whose_outcome_stays_unknown_is_found() -> None:
    history = [op for op in ops() if op.id != "a/0" or op.what == "ask"]
    assert [anomaly.kind for anomaly in judge(history, state())] == ["no outcome"]


def test_a_dead_letter_that_was_retried_gives_up_its_place() -> None:
    good = state()
    poison = [entry for entry in good.entries if is_poison(entry.number)]
    others = [entry for entry in good.entries if not is_poison(entry.number)]
    assert poison
    assert judge(ops(), attrs.evolve(good, entries=[*others, *poison])) == []
