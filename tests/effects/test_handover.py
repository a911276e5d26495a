"""What was committed goes to the log without being read back, and never before something older that another process has committed."""

from __future__ import annotations

from itertools import count

import attrs
from attrs import define, field
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fissile import App, Settings
from fissile._bus import Scheduled
from fissile.abc import Outgoing
from fissile.database._handover import MOST_ROWS, Handover
from fissile.transports.memory import MemoryTransport
from tests.effects.shop import Hooks, Place, make
from tests.runtime.helpers import log_of, until


async def test_two_replicas_on_one_database_publish_in_the_order_of_their_commits(settings: Settings) -> None:
    hooks, log = Hooks(), log_of()
    settings = attrs.evolve(settings, partitions=1)
    async with (
        App([make(hooks)], settings=settings, transport=MemoryTransport(log)) as one,
        App([make(hooks)], settings=settings, transport=MemoryTransport(log)) as other,
    ):
        for number in range(
            60
        ):  # of one key, by turns of different lengths: what one sends at once must wait for the other's
            app = one if number % 7 < 4 else other
            await app.bus.execute(Place("a"))
        await until(lambda: len(hooks.seen) == 60)
    assert [number for _, number in hooks.seen] == list(range(1, 61))


# --- against a model -------------------------------------------------------------------------------------------------


@define(eq=False)
class Outbox:
    """The rows of a database and what a relay has sent of them.

    Attributes:
        rows: By number, whether a row waits; a scheduled one is not to be sent now.
        sent: The numbers in the order in which they were sent.
        reads: How often the relay had to read.
    """

    handover: Handover = field(factory=Handover)
    rows: dict[int, bool] = field(factory=dict[int, bool])
    sent: list[int] = field(factory=list[int])
    reads: int = 0
    numbers: count[int] = field(factory=lambda: count(1))

    def commit(self, kinds: str, *, is_told: bool) -> None:
        """Commit rows, `s` for a scheduled one; tell the relay their numbers if they are this process's."""
        numbers = [next(self.numbers) for _ in kinds]
        self.rows.update((number, kind != "s") for number, kind in zip(numbers, kinds, strict=True))
        if is_told:
            self.handover.offer([make_record(kind) for kind in kinds], numbers[0])

    def commit_somehow(self) -> None:
        """Commit a row and tell the relay that there is one, without its number."""
        self.rows[next(self.numbers)] = True
        self.handover.offer((), None)

    def waiting(self) -> list[int]:
        """What is to be sent."""
        return [number for number, is_waiting in self.rows.items() if is_waiting and number not in self.sent]

    def round(self, meanwhile: str, portion: int, *, fails: bool = False) -> None:
        """Let the relay send, and others commit while it reads."""
        rows = self.handover.take()
        if rows is None:
            self.reads += 1
            self.handover.forget()
            waiting, reached = self.waiting(), max(self.rows, default=0)
            for who in meanwhile:
                self.commit("n", is_told=who == "u") if who in "uo" else self.commit_somehow()
            self.handover.has_read(reached if len(waiting) <= portion else None)
            numbers = waiting[:portion]
        else:
            numbers = [row.seq for row in rows]
        if fails:
            self.handover.forget()
            return
        for number in numbers:
            assert number == min(self.waiting()), "something older waits"
            self.sent.append(number)


def make_record(kind: str) -> Outgoing | Scheduled:
    record = Outgoing("topic", b"key", b"value", ())
    return Scheduled(record, 1) if kind == "s" else record


unhurried = examples(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

COMMITS = ("n", "s", "nn", "ns", "sn", "nnnn")
MEANWHILE = ("", "u", "o", "x", "uu", "uo", "ou", "xu", "ux")
STEPS = st.one_of(
    st.tuples(st.just("ours"), st.sampled_from(COMMITS)),
    st.tuples(st.just("other's"), st.sampled_from(COMMITS)),
    st.tuples(st.just("somehow"), st.just("")),
    st.tuples(st.just("round"), st.sampled_from(MEANWHILE)),
    st.tuples(st.just("failing round"), st.sampled_from(MEANWHILE)),
)


@unhurried
@given(steps=st.lists(STEPS, max_size=40), portion=st.integers(1, 5))
def test_whoever_commits_and_whatever_fails_each_row_is_sent_once_and_after_all_older_ones(
    steps: list[tuple[str, str]], portion: int
) -> None:
    outbox = Outbox()
    for what, how in steps:
        if what == "ours":
            outbox.commit(how, is_told=True)
        elif what == "other's":
            outbox.commit(how, is_told=False)
        elif what == "somehow":
            outbox.commit_somehow()
        else:
            outbox.round(how, portion, fails=what == "failing round")
    # What another process has committed is found when the relay looks, once a second; then nothing is left.
    outbox.handover.forget()
    for _ in range(len(outbox.rows) + 2):
        outbox.round("", portion)
    assert outbox.waiting() == []
    assert len(set(outbox.sent)) == len(outbox.sent)


@unhurried
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_what_one_process_commits_is_read_once_at_the_start_and_never_again(lengths: list[int]) -> None:
    outbox = Outbox()
    outbox.round("u", 10)
    for length in lengths:
        outbox.commit("n" * length, is_told=True)
        outbox.round("", 10)
    assert outbox.reads == 1
    assert outbox.waiting() == []


def test_while_the_log_is_away_only_a_portion_is_kept_in_memory() -> None:
    outbox = Outbox()
    outbox.round("", 10)
    for _ in range(MOST_ROWS):
        outbox.commit("n", is_told=True)
    kept = outbox.handover.take()
    assert kept is not None
    assert len(kept) == MOST_ROWS
    for _ in range(MOST_ROWS + 1):
        outbox.commit("n", is_told=True)
    assert outbox.handover.take() is None
