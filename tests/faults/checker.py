"""Reads a history and an end state, nothing else, and tells what went wrong, by Jepsen's names.

- lost-write: a command was acknowledged, and there is no effect of it.
- unseen: an event was acknowledged, and nobody has handled it by the end.
- aborted-read: what certainly did not happen, as its caller was told, was handled.
- phantom: something was handled that nobody has sent.
- duplicate: something was handled more often than the faults explain, or ended twice.
- nonmonotonic: of one key, a later event was handled for the first time before an earlier one.
- nonmonotonic-poll: one process went back in a key more often than the faults explain.
- inconsistent-offsets: what a group had committed went back.
- wrong-reply: a reply is not that of its command.
- handler-failed: a command ended with an error that it does not declare.
- no-outcome: a command has no end.
- late-outcome: it ended long after its deadline.
- too-many-unknown: more operations ended unknown than were under way at a fault.

A machine that stood still for long is a fault too: nobody can tell it from a process that was frozen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import define, field, frozen

from tests.faults.history import Commit, Effect, Fault, Lag, Line, Op, read_effects, read_history

SLACK_S = 5.0
"""How long after its deadline a call may end, besides what the machine was late."""
STALL_S = 1.0
"""From when on the machine has stood still, and was not only late."""


@frozen
class Anomaly:
    """One thing that went wrong."""

    name: str
    what: str


@define
class _Call:
    invoked: Op
    ends: list[Op] = field(factory=list[Op])

    @property
    def end(self) -> Op | None:
        return self.ends[0] if self.ends else None


@frozen
class Span:
    """From when to when a fault lasted."""

    name: str
    begin: float
    end: float


@frozen
class Report:
    """What a history comes to.

    Attributes:
        sent: How many operations were begun.
        ok: How many ended well.
        declared: How many commands ended with an error that they declare.
        failed: How many certainly did not happen.
        unknown: How many may have happened.
        in_flight: How many were under way at a fault.
        handled: How often something was handled.
        repeats: How often something was handled again.
        recoveries_s: How long it took, from the end of a fault or from its own beginning, until an operation that a fault held up ended.
        lag_s: How late the machine was from the first fault on, all in all; what a recovery time may have in it that is not ours.
        faults: What was injected.
        anomalies: What went wrong.
    """

    sent: int
    ok: int
    declared: int
    failed: int
    unknown: int
    in_flight: int
    handled: int
    repeats: int
    recoveries_s: tuple[float, ...]
    lag_s: float
    faults: tuple[Span, ...]
    anomalies: tuple[Anomaly, ...]

    def recovery_s(self, share: float) -> float:
        """Return the recovery time that so many of the operations that were held up had or were below."""
        times = sorted(self.recoveries_s)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0

    def recovers_within(self, limit_s: float) -> bool:
        """Return whether 99 of 100 operations that a fault held up were done in this time and what the machine was late."""
        return self.recovery_s(0.99) <= limit_s + self.lag_s

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in Counter(span.name for span in self.faults).items())
        found = ", ".join(f"{count} x {name}" for name, count in Counter(one.name for one in self.anomalies).items())
        return (
            f"faults: {faults or 'none'}; sent {self.sent}: ok {self.ok}, declared {self.declared}, failed {self.failed}, "
            f"unknown {self.unknown} of {self.in_flight} in flight; handled {self.handled}, of which {self.repeats} repeats; "
            f"recovery of {len(self.recoveries_s)}: p50 {self.recovery_s(0.5):.2f} s, p99 {self.recovery_s(0.99):.2f} s; "
            f"the machine was late by {self.lag_s:.2f} s; anomalies: {found or 'none'}"
        )


def check(history: Path, effects: Path, *, deadline_s: float = 30.0) -> Report:
    """Check the files of a run.

    Args:
        history: What the driver wrote.
        effects: What the processes handled.
        deadline_s: The deadline of a call.
    """
    return judge(read_history(history), read_effects(effects), deadline_s=deadline_s)


def judge(history: Iterable[Line], effects: Sequence[Effect], *, deadline_s: float = 30.0) -> Report:
    """Check a run."""
    lines = list(history)
    anomalies: list[Anomaly] = []
    calls = _calls(lines, anomalies)
    spans = (*_spans(lines), *_stalls(lines))
    in_flight = {call.invoked.id for call in calls.values() for span in spans if _overlaps(call, span)}
    ends = [call.end for call in calls.values() if call.end is not None]
    unknown = [end for end in ends if end.type == "info"]
    if len(unknown) > len(in_flight):
        anomalies.append(Anomaly("too-many-unknown", f"{len(unknown)} where {len(in_flight)} were in flight"))
    late_s = sum(line.late_s for line in lines if isinstance(line, Lag))
    for call in calls.values():
        anomalies += _judge_end(call, deadline_s + late_s)
    anomalies += _judge_effects(calls, effects, len(spans))
    anomalies += _judge_order(calls, effects, len(spans))
    anomalies += _judge_commits(lines)
    counted = Counter((end.type, end.value == "declared") for end in ends)
    return Report(
        sent=len(calls),
        ok=counted["ok", False],
        declared=counted["ok", True],
        failed=counted["fail", False],
        unknown=len(unknown),
        in_flight=len(in_flight),
        handled=len(effects),
        repeats=len(effects) - len({effect.id for effect in effects}),
        recoveries_s=_recoveries(calls, effects, spans),
        lag_s=_lag_s(lines, spans),
        faults=spans,
        anomalies=tuple(anomalies),
    )


def _calls(lines: Iterable[Line], anomalies: list[Anomaly]) -> dict[str, _Call]:
    calls: dict[str, _Call] = {}
    for line in lines:
        if not isinstance(line, Op):
            continue
        if line.type == "invoke":
            calls[line.id] = _Call(line)
        elif line.id in calls:
            calls[line.id].ends.append(line)
            if len(calls[line.id].ends) > 1:
                anomalies.append(Anomaly("duplicate", f"{line.id} ended twice"))
    return calls


def _spans(lines: Iterable[Line]) -> tuple[Span, ...]:
    spans: list[Span] = []
    open_: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if isinstance(line, Fault) and line.type == "begin":
            open_[line.name].append(len(spans))
            spans.append(Span(line.name, line.time, line.time))
        elif isinstance(line, Fault):
            place = open_[line.name].pop()
            spans[place] = Span(line.name, spans[place].begin, line.time)
    return tuple(spans)


def _stalls(lines: Iterable[Line]) -> tuple[Span, ...]:
    late = [line for line in lines if isinstance(line, Lag) and line.late_s >= STALL_S]
    return tuple(Span("stall", line.time - line.late_s, line.time) for line in late)


def _lag_s(lines: Iterable[Line], spans: Sequence[Span]) -> float:
    began = min((span.begin for span in spans), default=float("inf"))
    return sum(line.late_s for line in lines if isinstance(line, Lag) and line.time >= began)


def _overlaps(call: _Call, span: Span) -> bool:
    return call.invoked.time <= span.end and (call.end is None or call.end.time >= span.begin)


def _judge_end(call: _Call, deadline_s: float) -> Iterable[Anomaly]:
    end, name = call.end, call.invoked.id
    if end is None:
        yield Anomaly("no-outcome", name)
        return
    took_s = end.time - call.invoked.time
    if took_s > deadline_s + SLACK_S:
        yield Anomaly("late-outcome", f"{name} took {took_s:.1f} s")
    if end.happened is True:
        yield Anomaly("handler-failed", f"{name}: {end.value}")
    if end.f == "command" and end.type == "ok" and end.value not in ("declared", f"did {name}"):
        yield Anomaly("wrong-reply", f"{name}: {end.value!r}")


def _judge_effects(calls: dict[str, _Call], effects: Sequence[Effect], faults: int) -> Iterable[Anomaly]:
    counted = Counter(effect.id for effect in effects)
    for name, call in calls.items():
        end = call.end
        if end is not None and end.type == "ok" and name not in counted:
            yield Anomaly("lost-write" if end.f == "command" else "unseen", name)
        if end is not None and end.type == "fail" and not end.happened and name in counted:
            yield Anomaly("aborted-read", f"{name}: {end.value}")
    for name, count in counted.items():
        if name not in calls:
            yield Anomaly("phantom", name)
        if count > 1 + faults:
            yield Anomaly("duplicate", f"{name} was handled {count} times under {faults} faults")


def _judge_order(calls: dict[str, _Call], effects: Sequence[Effect], faults: int) -> Iterable[Anomaly]:
    first: dict[str, int] = {}
    last: dict[tuple[int, str], int] = {}
    back: Counter[tuple[int, str]] = Counter()
    seen: set[str] = set()
    for effect in effects:
        if effect.f != "event":
            continue
        call = calls.get(effect.id)
        # One that ended unknown may be stored late: its publisher has gone on, and knows.
        if effect.id not in seen and call is not None and call.end is not None and call.end.type == "ok":
            if effect.number < first.get(effect.key, -1):
                yield Anomaly("nonmonotonic", f"{effect.id} came after {effect.key}/{first[effect.key]}")
            first[effect.key] = effect.number
        seen.add(effect.id)
        place = effect.process, effect.key
        if effect.number <= last.get(place, -1) and (call is None or call.end is None or call.end.type == "ok"):
            back[place] += 1
        last[place] = effect.number
    for (process, key), count in back.items():
        if count > faults:
            yield Anomaly("nonmonotonic-poll", f"process {process} went back {count} times in {key}")


def _judge_commits(lines: Iterable[Line]) -> Iterable[Anomaly]:
    reached: dict[str, int] = {}
    for line in lines:
        if isinstance(line, Commit):
            if line.offset < reached.get(line.place, 0):
                yield Anomaly("inconsistent-offsets", f"{line.place}: {line.offset} after {reached[line.place]}")
            reached[line.place] = line.offset


def _recoveries(calls: dict[str, _Call], effects: Sequence[Effect], spans: Sequence[Span]) -> tuple[float, ...]:
    """Tell how long operations were held up: those under way at a fault, and later ones that took longer than any before it.

    A command ends with its reply, an event when it is handled.
    """
    if not spans:
        return ()
    handled: dict[str, float] = {}
    for effect in effects:
        handled.setdefault(effect.id, effect.time)
    began = min(span.begin for span in spans)
    times: list[tuple[float, float]] = []
    for call in calls.values():
        end, name = call.end, call.invoked.id
        if end is not None and end.type == "ok":
            times.append((call.invoked.time, max(end.time, handled.get(name, 0.0) if end.f == "event" else 0.0)))
    usual_s = max((done - begun for begun, done in times if done < began), default=0.0)
    found: list[float] = []
    for begun, done in times:
        healed = [span.end for span in spans if begun <= span.end < done]
        is_within = any(begun <= span.end and done >= span.begin for span in spans)
        if healed:
            found.append(done - max(healed))
        elif not is_within and done > began and done - begun > usual_s:
            found.append(done - begun)
    return tuple(found)
