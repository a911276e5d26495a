"""The checker finds each anomaly that it has a name for, and none in a history without."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tests.faults.checker import check, judge
from tests.faults.history import Commit, Effect, Effects, Fault, History, Lag, Line, Op, OpType, append_effect


def command(time: float, kind: OpType, name: str, value: str = "", happened: bool | None = None) -> Op:
    return Op(time, kind, "command", name, value=value, happened=happened)


def event(time: float, kind: OpType, number: int) -> Op:
    return Op(time, kind, "event", f"k/{number}", "k", number)


def did(name: str) -> Effect:
    return Effect("command", name, 1)


def saw(number: int, process: int = 1) -> Effect:
    return Effect("event", f"k/{number}", process, key="k", number=number)


def published(count: int, ended: Literal["ok", "fail", "info"] = "ok") -> list[Line]:
    return [event(number, kind, number) for number in range(count) for kind in ("invoke", ended)]


A = [command(1.0, "invoke", "a"), command(2.0, "ok", "a", "did a")]
KILL = Fault(1.5, "begin", "kill")

CASES: list[tuple[str, list[Line], list[Effect]]] = [
    ("lost-write", [*A], []),
    ("unseen", published(2), [saw(0)]),
    ("aborted-read", published(1, "fail"), [saw(0)]),
    ("phantom", [*A], [did("a"), did("b")]),
    ("duplicate", [*A], [did("a"), did("a")]),
    ("duplicate", [*A, A[1]], [did("a")]),
    ("nonmonotonic", published(2), [saw(1), saw(0, process=2)]),
    ("nonmonotonic-poll", published(3), [saw(0), saw(1), saw(2), saw(1)]),
    ("inconsistent-offsets", [Commit(1.0, "t/0", 5), Commit(2.0, "t/0", 4)], []),
    ("wrong-reply", [A[0], command(2.0, "ok", "a", "did b")], [did("a")]),
    ("handler-failed", [A[0], command(2.0, "fail", "a", "HandlerFailed", True)], [did("a")]),
    ("no-outcome", [A[0]], []),
    ("late-outcome", [A[0], command(99.0, "ok", "a", "did a")], [did("a")]),
    ("too-many-unknown", [A[0], command(2.0, "info", "a")], []),
    ("too-many-unknown", [Fault(0.5, "begin", "kill"), A[0], command(2.0, "info", "a")], []),
]


@pytest.mark.parametrize(("name", "history", "effects"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)])
def test_an_anomaly_is_found_by_its_name(name: str, history: list[Line], effects: list[Effect]) -> None:
    assert name in [anomaly.name for anomaly in judge(history, effects).anomalies]


@pytest.mark.parametrize(
    ("history", "effects"),
    [
        ([*A], [did("a")]),
        ([A[0], command(2.0, "ok", "a", "declared")], [did("a")]),
        ([A[0], KILL, command(2.0, "info", "a")], []),
        ([A[0], KILL, command(2.0, "info", "a")], [did("a")]),
        ([A[0], command(2.0, "fail", "a", "Unavailable", False)], []),
        ([A[0], KILL, A[1]], [did("a"), did("a")]),
        ([*published(3), KILL], [saw(0), saw(1), saw(0, process=2), saw(1, process=2), saw(2, process=2)]),
        ([Fault(0.0, "begin", "stop"), *published(1, "info"), event(3, "invoke", 1), event(4, "ok", 1)], [saw(1), saw(0)]),
        ([Commit(1.0, "t/0", 5), Commit(2.0, "t/1", 4), Commit(3.0, "t/0", 5)], []),
        ([A[0], *(Lag(9.0 * number, 0.9) for number in range(80)), command(99.0, "ok", "a", "did a")], [did("a")]),
        ([A[0], Lag(1.9, 1.2), A[1]], [did("a"), did("a")]),
    ],
)  # fmt: skip
def test_what_the_model_allows_is_no_anomaly(history: list[Line], effects: list[Effect]) -> None:
    assert judge(history, effects).anomalies == ()


def test_outcomes_are_counted_and_recovery_is_measured_from_the_end_of_the_fault() -> None:
    history: list[Line] = [
        command(0.0, "invoke", "a"),
        command(0.1, "ok", "a", "did a"),
        command(1.0, "invoke", "b"),
        Fault(1.5, "begin", "stop"),
        command(2.0, "invoke", "c"),
        command(2.5, "fail", "c", "Unavailable", False),
        Fault(3.0, "end", "stop"),
        command(3.5, "ok", "b", "declared"),
        command(4.0, "invoke", "d"),
        command(4.05, "ok", "d", "did d"),
        command(5.0, "invoke", "e"),
        command(6.0, "ok", "e", "did e"),
    ]
    report = judge(history, [did("a"), did("b"), did("b"), did("d"), did("e")])
    assert (report.sent, report.ok, report.declared, report.failed, report.unknown) == (5, 3, 1, 1, 0)
    assert (report.in_flight, report.handled, report.repeats) == (2, 5, 1)
    assert report.recoveries_s == (0.5, 1.0)
    assert "1 x stop" in str(report)


def test_a_recovery_may_take_longer_by_what_the_machine_was_late_since_the_fault() -> None:
    history: list[Line] = [A[0], Lag(1.4, 0.5), KILL, Lag(2.0, 0.25), Lag(8.0, 0.5), command(9.5, "ok", "a", "did a")]
    report = judge(history, [did("a")])
    assert (report.recoveries_s, report.lag_s) == ((8.0,), 0.75)
    assert report.recovers_within(7.25)
    assert not report.recovers_within(7.2)


def test_the_files_say_what_was_written_even_where_the_last_line_was_cut(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for line in A:
        history.write(line)
    history.fault("kill")
    history.close()
    assert (history.done, history.acknowledged) == (1, {"a"})
    effects = tmp_path / "effects"
    append_effect(str(effects), did("a"))
    with effects.open("ab") as file:
        file.write(b'{"f":"comm')
    follower = Effects(effects)
    assert follower.look() == follower.look() == {"a"}
    assert check(tmp_path / "history", effects).anomalies == ()
