"""Reads a history and an end state, nothing else, and tells what went wrong, by Jepsen's names.

- lost-write: a command was acknowledged, and there is no effect of it; or something acknowledged is not in the log.
- unseen: an event was acknowledged, and nobody has handled it by the end.
- aborted-read: what certainly did not happen, as its caller was told, was handled.
- phantom: something was handled that nobody has sent.
- duplicate: something was handled more often than the faults that reached it explain, or ended twice, or is in the log twice.
- nonmonotonic: of one key, a later event was handled for the first time before an earlier one.
- nonmonotonic-poll: one process went back in a key more often than the faults explain.
- nonmonotonic-send: of one key, a later event is in the log before an earlier one, or on another partition.
- poll-skip: one process went on in a key past an event that nobody had handled, though partitions may have moved meanwhile.
- int-poll-skip: one process went on past an event that it had not handled, and there was no fault meanwhile that could have moved partitions.
- inconsistent-offsets: what a group had committed went back.
- uncommitted: when all was over, a group had not committed what it had handled.
- wrong-reply: a reply is not that of its command.
- handler-failed: a command ended with an error that it does not declare.
- no-outcome: a command has no end.
- late-outcome: it ended long after its deadline.
- too-many-unknown: more operations ended unknown than were under way at a fault.

Which repeats a fault explains is in `deliveries.py`. A machine that stood still for long is a fault too: nobody can tell it from a process that
was frozen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from attrs import define, field, frozen

from tests.faults.deliveries import Anomaly, Call, Deliveries, Limits, Span, judge_commits, judge_log, stored
from tests.faults.history import Effect, Fault, Lag, Line, Op, read_effects, read_history

SLACK_S = 5.0
"""How long after its deadline a call may end, besides what the machine was late."""
STALL_S = 1.0
"""From when on the machine has stood still, and was not only late."""
LAG_CAP_S = 5.0
"""How much of what the machine was late may count in favour of one operation, in seconds: many small delays hide no long one."""

CONTRACT = Limits()


@define
class Lateness:
    """How late the machine was, and when."""

    lines: Sequence[Lag]
    _times: list[float] = field(init=False)
    _sums: list[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        lines = sorted(self.lines, key=lambda line: line.time)
        self._times = [line.time for line in lines]
        self._sums = [0.0, *accumulate(line.late_s for line in lines)]

    def between(self, begin: float, end: float) -> float:
        """Return how late it was, all in all, from one time to another."""
        return self._sums[bisect_right(self._times, end)] - self._sums[bisect_left(self._times, begin)]

    def counted(self, begin: float, end: float) -> float:
        """Likewise, as far as it counts."""
        return min(LAG_CAP_S, self.between(begin, end))


@frozen
class Recovery:
    """How long a fault held an operation up.

    Attributes:
        took_s: From the end of the fault, or from its own beginning, until it ended.
        lag_s: How late the machine was meanwhile, as far as that counts.
    """

    took_s: float
    lag_s: float


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
        repeats_of: The same, of commands and of events.
        most: How often the same was handled, at most.
        recoveries: How long operations were held up by faults.
        lag_s: How late the machine was from the first fault on, all in all.
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
    repeats_of: Mapping[str, int]
    most: int
    recoveries: tuple[Recovery, ...]
    lag_s: float
    faults: tuple[Span, ...]
    anomalies: tuple[Anomaly, ...]

    @property
    def recoveries_s(self) -> tuple[float, ...]:
        """How long operations were held up, each."""
        return tuple(recovery.took_s for recovery in self.recoveries)

    def recovery_s(self, share: float) -> float:
        """Return the recovery time that so many of the operations that were held up had or were below."""
        return _quantile(self.recoveries_s, share)

    def recovers_within(self, limit_s: float) -> bool:
        """Return whether 99 of 100 operations that a fault held up were done in this time and what the machine was late during each."""
        return _quantile([recovery.took_s - recovery.lag_s for recovery in self.recoveries], 0.99) <= limit_s

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in Counter(span.name for span in self.faults).items())
        found = ", ".join(f"{count} x {name}" for name, count in Counter(one.name for one in self.anomalies).items())
        return (
            f"faults: {faults or 'none'}; sent {self.sent}: ok {self.ok}, declared {self.declared}, failed {self.failed}, "
            f"unknown {self.unknown} of {self.in_flight} in flight; handled {self.handled}, of which {self.repeats} repeats, "
            f"none more than {self.most} times; "
            f"recovery of {len(self.recoveries)}: p50 {self.recovery_s(0.5):.2f} s, p99 {self.recovery_s(0.99):.2f} s; "
            f"the machine was late by {self.lag_s:.2f} s; anomalies: {found or 'none'}"
        )


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def check(history: Path, effects: Path, limits: Limits = CONTRACT) -> Report:
    """Check the files of a run.

    Args:
        history: What the driver wrote.
        effects: What the processes handled.
        limits: What the contract allows.
    """
    return judge(read_history(history), read_effects(effects), limits)


def judge(history: Iterable[Line], effects: Sequence[Effect], limits: Limits = CONTRACT) -> Report:
    """Check a run."""
    lines = list(history)
    anomalies: list[Anomaly] = []
    calls = _calls(lines, anomalies)
    lateness = Lateness([line for line in lines if isinstance(line, Lag)])
    spans = _spans(lines, lateness, limits)
    in_flight = {call.invoked.id for call in calls.values() for span in spans if span.overlaps(call)}
    ends = [call.end for call in calls.values() if call.end is not None]
    unknown = [end for end in ends if end.type == "info"]
    if len(unknown) > len(in_flight):
        anomalies.append(Anomaly("too-many-unknown", f"{len(unknown)} where {len(in_flight)} were in flight"))
    for call in calls.values():
        anomalies += _judge_end(call, lateness, limits)
    log = stored(lines)
    deliveries = Deliveries(calls, effects, spans, limits, log)
    anomalies += [*deliveries.judge(), *judge_log(calls, log, spans), *judge_commits(lines)]
    counted = Counter((end.type, end.value == "declared") for end in ends)
    began = min((span.begin for span in spans), default=float("inf"))
    return Report(
        sent=len(calls),
        ok=counted["ok", False],
        declared=counted["ok", True],
        failed=counted["fail", False],
        unknown=len(unknown),
        in_flight=len(in_flight),
        handled=len(effects),
        repeats=deliveries.repeats,
        repeats_of=deliveries.repeats_of(),
        most=max(map(len, deliveries.times.values()), default=0),
        recoveries=_recoveries(calls, deliveries.times, spans, lateness),
        lag_s=lateness.between(began, float("inf")),
        faults=spans,
        anomalies=tuple(anomalies),
    )


def _calls(lines: Iterable[Line], anomalies: list[Anomaly]) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for line in lines:
        if not isinstance(line, Op):
            continue
        if line.type == "invoke":
            calls[line.id] = Call(line)
        elif line.id in calls:
            calls[line.id].ends.append(line)
            if len(calls[line.id].ends) > 1:
                anomalies.append(Anomaly("duplicate", f"{line.id} ended twice"))
    return calls


def _spans(lines: Iterable[Line], lateness: Lateness, limits: Limits) -> tuple[Span, ...]:
    found: list[tuple[str, float, float, float]] = []  # and until when it is felt
    open_: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if not isinstance(line, Fault):
            continue
        if line.type == "begin":
            open_[line.name].append(len(found))
            found.append((line.name, line.time, line.time, line.time))
        else:
            place = open_[line.name].pop()
            name, begin, end, _ = found[place]
            found[place] = (name, begin, line.time if line.type == "end" else end, line.time)
    stalls = [line for line in lateness.lines if line.late_s >= STALL_S]
    found += [("stall", line.time - line.late_s, line.time, line.time) for line in stalls]

    def settled(felt: float) -> float:
        return felt + limits.settle_s + lateness.counted(felt, felt + limits.settle_s)

    return tuple(Span(name, begin, end, settled(felt)) for name, begin, end, felt in found)


def _judge_end(call: Call, lateness: Lateness, limits: Limits) -> Iterable[Anomaly]:
    end, name = call.end, call.invoked.id
    if end is None:
        yield Anomaly("no-outcome", name)
        return
    took_s = end.time - call.invoked.time
    if took_s > limits.deadline_s + SLACK_S + lateness.counted(call.invoked.time, end.time):
        yield Anomaly("late-outcome", f"{name} took {took_s:.1f} s")
    if end.happened is True:
        yield Anomaly("handler-failed", f"{name}: {end.value}")
    if end.f == "command" and end.type == "ok" and end.value not in ("declared", f"did {name}"):
        yield Anomaly("wrong-reply", f"{name}: {end.value!r}")


def _recoveries(
    calls: Mapping[str, Call], handled: Mapping[str, Sequence[float]], spans: Sequence[Span], lateness: Lateness
) -> tuple[Recovery, ...]:
    """Tell how long operations were held up: those under way at a fault, and later ones that took longer than any before it.

    A command ends with its reply, an event when it is handled.
    """
    if not spans:
        return ()
    began = min(span.begin for span in spans)
    times: list[tuple[float, float]] = []
    for call in calls.values():
        end, name = call.end, call.invoked.id
        if end is not None and end.type == "ok":
            seen = handled[name][0] if end.f == "event" and name in handled else 0.0
            times.append((call.invoked.time, max(end.time, seen)))
    usual_s = max((done - begun for begun, done in times if done < began), default=0.0)
    found: list[Recovery] = []
    for begun, done in times:
        healed = [span.end for span in spans if begun <= span.end < done]
        is_within = any(begun <= span.end and done >= span.begin for span in spans)
        since = max(healed) if healed else begun
        if healed or (not is_within and done > began and done - begun > usual_s):
            found.append(Recovery(done - since, lateness.counted(since, done)))
    return tuple(found)
