"""Judges what was seen against what is there: an effect per acknowledged command and none twice, no event lost, order per key kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from tests.crashes.history import Op
from tests.crashes.modules import has_reminder, is_poison, is_sold_out
from tests.crashes.state import EndState, Order


@frozen
class Anomaly:
    """Something that must not be."""

    kind: str
    text: str


@frozen
class Figures:
    """What a run came to.

    Attributes:
        commands: How many commands were acknowledged.
        repeats: How many tries there were beyond the first of each.
        recoveries_s: How long it took from a death to the next answer, where the next life was long enough for one, in seconds.
        starts_s: How long each start took, in seconds.
    """

    commands: int
    repeats: int
    recoveries_s: Sequence[float]
    starts_s: Sequence[float]

    def __str__(self) -> str:
        recovery, start = sorted(self.recoveries_s) or [0.0], sorted(self.starts_s) or [0.0]
        return (
            f"{self.commands} commands, {self.repeats} tries again; start p50 {start[len(start) // 2]:.2f} s, "
            f"death to next answer p50 {recovery[len(recovery) // 2]:.2f} s, max {recovery[-1]:.2f} s"
        )


def judge(history: Sequence[Op], state: EndState) -> list[Anomaly]:
    """Return all that must not be."""
    asked = {op.id: op for op in history if op.what == "ask"}
    orders: dict[str, list[Order]] = defaultdict(list)
    for order in state.orders:
        orders[order.message_id].append(order)
    return [
        *_judge_outcomes(history, orders),
        *_judge_orders(asked, orders),
        *_judge_events(state),
        *_judge_times(state),
        *_judge_order(state),
        *_judge_ends(history, asked, state),
    ]


def _judge_outcomes(history: Iterable[Op], orders: dict[str, list[Order]]) -> Iterator[Anomaly]:
    """Every outcome of a command is the same, and is what its row says."""
    outcomes: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for op in history:
        if op.what in ("reply", "declared"):
            outcomes[op.id].add((op.what, op.value))
    for name, found in outcomes.items():
        if len(found) > 1:
            yield Anomaly("another outcome", f"{name} came to {sorted(found)}")
        for what, token in found:
            tokens = [order.token for order in orders.get(name, ())]
            if what == "reply" and token not in tokens:
                yield Anomaly("lost effect", f"{name} was acknowledged with {token}, and its rows are {tokens}")
            if what == "declared" and tokens:
                yield Anomaly("effect of an error", f"{name} came to a declared error and has {tokens}")


def _judge_orders(asked: dict[str, Op], orders: dict[str, list[Order]]) -> Iterator[Anomaly]:
    for name, found in orders.items():
        if len(found) > 1:
            yield Anomaly("effect twice", f"{name} has {len(found)} rows")
        if name not in asked:
            yield Anomaly("effect of nothing", f"{name} was never asked for")
    for name, op in asked.items():  # every try ends, at last, with an outcome, and what was stored is handled
        expects = not (op.kind == "execute" and is_sold_out(op.number))
        if expects and name not in orders:
            yield Anomaly("lost effect", f"{name} ({op.kind}) has no row")


def _judge_events(state: EndState) -> Iterator[Anomaly]:
    """Each event of the orders is one entry of the ledger, a retried dead letter too; each entry is one event, stored once or more."""
    entries = Counter((entry.order_id, entry.token) for entry in state.entries)
    for order in state.orders:
        name, count = order.message_id, entries.pop((order.message_id, order.token), 0)
        if count != 1:
            yield Anomaly("event twice" if count else "lost event", f"{name} has {count} entries")
    if entries:
        yield Anomaly("event of nothing", f"entries without an order: {sorted(entries)}")
    if state.letters:
        yield Anomaly("dead letter", f"dead letters that were retried are still there: {sorted(state.letters)}")
    ids: dict[str, set[str]] = defaultdict(set)
    for seen in state.seen:
        ids[seen.order_id].add(seen.id)
    for entry in state.entries:
        count = len(ids.pop(entry.order_id, ()))
        if count != 1:
            kind = "event twice" if count else "lost event"
            yield Anomaly(kind, f"the ledger's event of {entry.order_id} has {count} ids in the log")
    if ids:
        yield Anomaly("event of nothing", f"the ledger published what it has not entered: {sorted(ids)}")


def _judge_times(state: EndState) -> Iterator[Anomaly]:
    """What was to come later came once, and each tick once."""
    reminders = Counter(state.reminders)
    for order in state.orders:
        count, wanted = reminders.pop(order.message_id, 0), int(has_reminder(order.number))
        if count != wanted:
            kind = "lost reminder" if count < wanted else "reminder twice"
            yield Anomaly(kind, f"{order.message_id} has {count} reminders, not {wanted}")
    if reminders:
        yield Anomaly("event of nothing", f"reminders without an order: {sorted(reminders)}")
    ticks = Counter(state.ticks)
    for name, count in ticks.items():
        if count > 1:
            yield Anomaly("tick twice", f"{name} was handled {count} times")
    if len(ticks) < state.noted_ticks:
        yield Anomaly("lost tick", f"{len(ticks)} ticks were handled of {state.noted_ticks} or more")


def _judge_order(state: EndState) -> Iterator[Anomaly]:
    """Per key, the numbers rise: in the orders, in the ledger, and in what the ledger publishes. A retried dead letter gives up its place."""
    first_seen = {seen.id: seen for seen in reversed(state.seen)}  # of what is stored twice, the first counts
    known: set[str] = set()
    published: list[tuple[str, int]] = []
    for seen in state.seen:
        if seen.id not in known:
            known.add(seen.id)
            published.append((first_seen[seen.id].key, first_seen[seen.id].number))
    lines = {
        "orders": [(order.key, order.number) for order in state.orders],
        "ledger": [(entry.key, entry.number) for entry in state.entries],
        "ledger's events": published,
    }
    for where, found in lines.items():
        last: dict[str, int] = {}
        for key, number in found:
            if is_poison(number) and where != "orders":
                continue
            if number <= last.get(key, -1):
                yield Anomaly("out of order", f"{where}: {key}/{number} after {last[key]}")
            last[key] = number


def _judge_ends(history: Sequence[Op], asked: dict[str, Op], state: EndState) -> Iterator[Anomaly]:
    ended = {op.id for op in history if op.what in ("reply", "declared", "stored")}
    for name in asked:
        if name not in ended:
            yield Anomaly("no outcome", f"{name} was repeated until the end, and its outcome is not known")
    if state.waiting:
        yield Anomaly("outbox", f"{state.waiting} rows are left in the outboxes")
    for text in state.behind:
        yield Anomaly("offsets", text)


def figures(history: Sequence[Op]) -> Figures:
    """Return what a run came to."""
    tries = Counter(op.id for op in history if op.what == "ask")
    recoveries: list[float] = []
    death: float | None = None
    for op in history:
        if op.what == "death":
            death = op.time
        elif op.what in ("reply", "declared") and death is not None:
            recoveries.append(op.time - death)
            death = None
    starts = [float(op.value) for op in history if op.what == "start"]
    return Figures(len(tries), sum(tries.values()) - len(tries), recoveries, starts)
