"""Which repeats the faults explain, and whether the order of each key was kept: what the contract of delivery says, and no more.

A record is handled again if its offset was not committed when a fault hit, and only then. Offsets are committed a moment after handling, up to
the lowest unfinished one. So a fault exposes what was under way, and what stood behind that in its partition; and, until the groups are
settled again, what comes next. Each fault that exposes a record explains one more delivery of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from attrs import define, field, frozen

from tests.faults.history import Commit, Effect, Line, Op, Stored


@frozen
class Anomaly:
    """One thing that went wrong."""

    name: str
    what: str


@define
class Call:
    """What became of one operation."""

    invoked: Op
    ends: list[Op] = field(factory=list[Op])

    @property
    def end(self) -> Op | None:
        """How it ended."""
        return self.ends[0] if self.ends else None

    @property
    def is_ok(self) -> bool:
        """Whether it was acknowledged."""
        return bool(self.ends) and self.ends[0].type == "ok"


@frozen
class Span:
    """From when to when a fault lasted.

    Attributes:
        name: What it was.
        begin: When it began.
        end: When it was over; from here on things recover.
        settled: When the groups have to be settled again.
    """

    name: str
    begin: float
    end: float
    settled: float

    def overlaps(self, call: Call) -> bool:
        """Tell whether a call was under way meanwhile."""
        return call.invoked.time <= self.end and (call.end is None or call.end.time >= self.begin)


@frozen
class Limits:
    """What the contract allows.

    Attributes:
        deadline_s: The deadline of a call.
        commit_s: How long after a record was handled its offset may be uncommitted, where nothing is unfinished before it: the interval of
            commits, and what a round trip takes on a machine that is not busy.
        settle_s: How long after a fault the groups may take to be settled again.
    """

    deadline_s: float = 30.0
    commit_s: float = 0.5
    settle_s: float = 8.0


BEFORE_S = 5.0
"""How long before a fault the round trips are looked at that tell how long a commit took then."""
ROUND_TRIP_CAP_S = 2.0
"""How much of them counts, at most."""


@define
class Deliveries:
    """What was handled, beside what was sent, what is stored, and which faults there were."""

    calls: Mapping[str, Call]
    effects: Sequence[Effect]
    spans: Sequence[Span]
    limits: Limits
    log: Mapping[str, Sequence[Stored]]
    """The records of each id, the first one first; of none, where the log was not looked at."""
    times: dict[str, list[float]] = field(factory=lambda: defaultdict[str, list[float]](list), init=False)
    """When each id was handled."""
    exposed: dict[str, list[Span]] = field(factory=lambda: defaultdict[str, list[Span]](list), init=False)
    """The faults that have reached an id."""
    explained: dict[str, int] = field(factory=lambda: defaultdict[str, int](int), init=False)
    """How many repeats of an id they explain: of each the next one, unless that came when all was settled long since."""

    def __attrs_post_init__(self) -> None:
        for effect in self.effects:
            self.times[effect.id].append(effect.time)
        for times in self.times.values():
            times.sort()
        self._expose()

    @property
    def repeats(self) -> int:
        """How often something was handled again."""
        return len(self.effects) - len(self.times)

    def repeats_of(self) -> Mapping[str, int]:
        """Return how often a command, and how often an event, was handled again."""
        handled = Counter[str](effect.f for effect in self.effects)
        handled.subtract({effect.id: effect.f for effect in self.effects}.values())
        return handled

    def _places(self) -> Iterable[list[str]]:
        """Return the ids of each partition in their order. What was not seen in the log stands alone."""
        places: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name in self.calls:
            if name in self.log:
                places[self.log[name][-1].place].append((self.log[name][-1].offset, name))
            else:
                places[f"of {name}"].append((0, name))
        return [[name for _, name in sorted(found)] for found in places.values()]

    def _expose(self) -> None:
        # Until when an offset was certainly not committed: its latest delivery that was right. What a fault makes come again is open again.
        open_until = {name: self._open_until(name) for name in self.calls}
        places = self._places()
        for span in sorted(self.spans, key=lambda span: span.begin):
            uncommitted_since = span.begin - self.limits.commit_s - self._round_trip_s(span.begin)
            for place in places:
                is_behind = False
                for name in place:
                    if self.calls[name].invoked.time > span.settled:
                        continue
                    is_behind = is_behind or open_until[name] >= uncommitted_since
                    if not is_behind:
                        continue
                    self.exposed[name].append(span)
                    repeat = next(iter(self.times.get(name, ())[1 + self.explained[name] :]), None)
                    if repeat is not None and span.begin <= repeat <= span.settled:
                        self.explained[name] += 1
                        open_until[name] = repeat

    def _round_trip_s(self, time: float) -> float:
        """Return how long the slowest operation took of those that ended in the seconds before: the machine may be busy."""
        ends = [(call.end.time, call.invoked.time) for call in self.calls.values() if call.end is not None]
        took = [end - begun for end, begun in ends if time - BEFORE_S <= end <= time]
        return min(ROUND_TRIP_CAP_S, max(took, default=0.0))

    def _open_until(self, name: str) -> float:
        if name in self.times:
            return self.times[name][0]
        end = self.calls[name].end
        # A request whose caller had given up is passed over.
        return float("inf") if end is None or end.type == "ok" else end.time

    def judge(self) -> Iterator[Anomaly]:
        """Tell what was handled that should not have been, or not so often, or not in this order."""
        for name, call in self.calls.items():
            end = call.end
            if call.is_ok and name not in self.times:
                yield Anomaly("lost-write" if call.invoked.f == "command" else "unseen", name)
            if end is not None and end.type == "fail" and not end.happened and name in self.times:
                yield Anomaly("aborted-read", f"{name}: {end.value}")
        for name, times in self.times.items():
            if name not in self.calls:
                yield Anomaly("phantom", name)
                continue
            faults = len(self.exposed[name])
            if len(times) > 1 + faults:
                yield Anomaly(
                    "duplicate", f"{name} was handled {len(times)} times, and {faults} faults have reached it"
                )
        yield from self._judge_first()
        for (process, key), effects in self._by_reader().items():
            yield from self._judge_back(process, effects)
            yield from self._judge_skips(process, key, effects)

    def _is_ok(self, name: str) -> bool:
        return name in self.calls and self.calls[name].is_ok

    def _judge_first(self) -> Iterator[Anomaly]:
        first: dict[str, int] = {}
        seen: set[str] = set()
        for effect in self.effects:
            # One that ended unknown may be stored late: its publisher has gone on, and knows.
            if effect.f != "event" or effect.id in seen or not self._is_ok(effect.id):
                continue
            seen.add(effect.id)
            if effect.number < first.get(effect.key, -1):
                yield Anomaly("nonmonotonic", f"{effect.id} came after {effect.key}/{first[effect.key]}")
            first[effect.key] = effect.number

    def _by_reader(self) -> Mapping[tuple[int, str], Sequence[Effect]]:
        """Return the events that each process handled of each key, in its order; those that ended unknown may be stored late, in any order."""
        found: dict[tuple[int, str], list[Effect]] = defaultdict(list)
        for effect in self.effects:
            if effect.f == "event" and self._is_ok(effect.id):
                found[effect.process, effect.key].append(effect)
        return found

    def _judge_back(self, process: int, effects: Sequence[Effect]) -> Iterator[Anomaly]:
        used: list[Span] = []  # a fault makes a process go back once
        for before, effect in pairwise(effects):
            if effect.number > before.number:
                continue
            span = next((span for span in self.exposed[effect.id] if span not in used), None)
            if span is None:
                yield Anomaly("nonmonotonic-poll", f"process {process} went back from {before.id} to {effect.id}")
            else:
                used.append(span)

    def _judge_skips(self, process: int, key: str, effects: Sequence[Effect]) -> Iterator[Anomaly]:
        for before, effect in pairwise(effects):
            skipped = [f"{key}/{number}" for number in range(before.number + 1, effect.number)]
            skipped = [name for name in skipped if self._is_ok(name)]
            if not skipped:
                continue
            told = f"process {process} went from {before.id} to {effect.id}, over {', '.join(skipped)}"
            if not any(span.begin <= effect.time and span.settled >= before.time for span in self.spans):
                yield Anomaly("int-poll-skip", told)  # within one assignment, whoever else has had them
            elif any(name not in self.times or min(self.times[name]) > effect.time for name in skipped):
                yield Anomaly("poll-skip", told)


def stored(lines: Iterable[Line]) -> Mapping[str, Sequence[Stored]]:
    """Return what is known of the log: the records of each id."""
    found: dict[tuple[str, int], Stored] = {
        (line.place, line.offset): line for line in lines if isinstance(line, Stored)
    }
    by_id: dict[str, list[Stored]] = defaultdict(list)
    for line in sorted(found.values(), key=lambda line: (line.place, line.offset)):
        by_id[line.id].append(line)
    return by_id


def judge_log(
    calls: Mapping[str, Call], log: Mapping[str, Sequence[Stored]], spans: Sequence[Span]
) -> Iterator[Anomaly]:
    """Tell what is missing in the log, or there twice, or in another order than it was sent in."""
    if not log:
        return
    of_keys: dict[str, list[Call]] = defaultdict(list)
    for name, call in calls.items():
        copies = log.get(name, ())
        if call.is_ok and not copies:
            yield Anomaly("lost-write", f"{name} is not in the log")
        if len(copies) > 1 and not any(span.overlaps(call) for span in spans):
            yield Anomaly("duplicate", f"{name} is in the log {len(copies)} times")
        if call.is_ok and copies and call.invoked.key:
            of_keys[call.invoked.key].append(call)
    for found in of_keys.values():
        for before, after in pairwise(sorted(found, key=lambda call: call.invoked.number)):
            one, other = log[before.invoked.id][0], log[after.invoked.id][0]
            if one.place != other.place or one.offset > other.offset:
                where = f"{one.place} at {one.offset} and {other.place} at {other.offset}"
                yield Anomaly("nonmonotonic-send", f"{before.invoked.id} and {after.invoked.id} are in {where}")


def judge_commits(lines: Iterable[Line]) -> Iterator[Anomaly]:
    """Tell where commits went back, or had not reached the end of the log when all was over."""
    reached: dict[str, int] = {}
    ends: dict[str, int] = defaultdict(int)
    for line in lines:
        if isinstance(line, Stored):
            ends[line.place] = max(ends[line.place], line.offset + 1)
        elif isinstance(line, Commit):
            if line.offset < reached.get(line.place, 0):
                yield Anomaly("inconsistent-offsets", f"{line.place}: {line.offset} after {reached[line.place]}")
            reached[line.place] = line.offset
    for place, end in ends.items():
        if reached.get(place, 0) < end:
            yield Anomaly("uncommitted", f"{place}: {reached.get(place, 0)} of {end}")
