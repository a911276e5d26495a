"""The checker finds each anomaly that it has a name for, and none in a history without."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tests.faults.checker import LAG_CAP_S, check, judge
from tests.faults.history import Commit, Effect, Effects, Fault, History, Lag, Line, Op, OpType, Stored, append_effect


def command(time: float, kind: OpType, name: str, value: str = "", happened: bool | None = None) -> Op:
    return Op(time, kind, "command", name, value=value, happened=happened)


def event(time: float, kind: OpType, number: int) -> Op:
    return Op(time, kind, "event", f"k/{number}", "k", number)


def did(name: str, time: float = 1.0) -> Effect:
    return Effect("command", name, 1, time=time)


def saw(number: int, process: int = 1, time: float | None = None) -> Effect:
    return Effect("event", f"k/{number}", process, key="k", number=number, time=number if time is None else time)


def at(offset: int, number: int, place: str = "g: t/0", key: str = "k") -> Stored:
    return Stored(99.0, place, offset, f"{key}/{number}")


def published(count: int, ended: Literal["ok", "fail", "info"] = "ok") -> list[Line]:
    return [event(number, kind, number) for number in range(count) for kind in ("invoke", ended)]


def later(time: float) -> Fault:
    return Fault(time, "begin", "kill")


def lateness(begin: float, end: float, late_s: float = 0.02) -> list[Line]:
    """A machine that is late all the time."""
    return [Lag(begin + number * late_s, late_s) for number in range(round((end - begin) / late_s))]


A = [command(1.0, "invoke", "a"), command(2.0, "ok", "a", "did a")]
KILL = Fault(1.5, "begin", "kill")

CASES: list[tuple[str, list[Line], list[Effect]]] = [
    ("lost-write", [*A], []),
    ("unseen", published(2), [saw(0)]),
    ("aborted-read", published(1, "fail"), [saw(0)]),
    ("phantom", [*A], [did("a"), did("b")]),
    ("lost-write", [*published(2), at(0, 0)], [saw(0), saw(1)]),
    ("duplicate", [*A], [did("a"), did("a")]),
    ("duplicate", [A[0], KILL, A[1]], [did("a"), did("a", 2.0), did("a", 3.0)]),
    ("duplicate", [*published(2), at(0, 0), at(1, 1), at(2, 1)], [saw(0), saw(1), saw(1)]),
    ("duplicate", [*A, A[1]], [did("a")]),
    ("nonmonotonic", published(2), [saw(1), saw(0, process=2)]),
    ("nonmonotonic-poll", published(3), [saw(0), saw(1), saw(2), saw(1)]),
    ("nonmonotonic-poll", [*published(3), later(3)], [saw(0), saw(1), saw(2), saw(1), saw(2), saw(1)]),
    ("nonmonotonic-send", [*published(2), at(1, 0), at(0, 1)], [saw(0), saw(1)]),
    ("nonmonotonic-send", [*published(2), at(0, 0), at(1, 1, "g: t/1")], [saw(0), saw(1)]),
    ("poll-skip", [*published(3), later(1)], [saw(0), saw(2), saw(1, process=2, time=3.0)]),
    ("int-poll-skip", published(3), [saw(0), saw(1, process=2), saw(2)]),
    ("int-poll-skip", published(3), [saw(0), saw(2)]),
    ("uncommitted", [*published(2), at(0, 0), at(1, 1), Commit(9.0, "g: t/0", 1)], [saw(0), saw(1)]),
    ("uncommitted", [*published(1), at(0, 0)], [saw(0)]),
    ("inconsistent-offsets", [Commit(1.0, "t/0", 5), Commit(2.0, "t/0", 4)], []),
    ("wrong-reply", [A[0], command(2.0, "ok", "a", "did b")], [did("a")]),
    ("handler-failed", [A[0], command(2.0, "fail", "a", "HandlerFailed", True)], [did("a")]),
    ("no-outcome", [A[0]], []),
    ("late-outcome", [A[0], command(99.0, "ok", "a", "did a")], [did("a")]),
    ("late-outcome", [A[0], *lateness(1.0, 99.0), command(99.0, "ok", "a", "did a")], [did("a")]),
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
        ([A[0], KILL, A[1]], [did("a"), did("a", 2.0)]),
        ([*A, KILL], [did("a", 1.2), did("a", 2.0)]),  # not committed yet
        ([A[0], KILL, later(4), A[1]], [did("a", 3.9), did("a", 5.0), did("a", 6.0)]),
        ([*published(3), later(2)], [saw(0), saw(1), saw(2), saw(2, process=2)]),
        ([*published(3), later(1)], [saw(0), saw(1, process=2), saw(2)]),  # its partition was away meanwhile
        ([Fault(0.0, "begin", "stop"), *published(1, "info"), event(3, "invoke", 1), event(4, "ok", 1)], [saw(1), saw(0)]),
        ([Commit(1.0, "t/0", 5), Commit(2.0, "t/1", 4), Commit(3.0, "t/0", 5)], []),
        ([A[0], *(Lag(9.0 + number, 0.9) for number in range(9)), command(40.0, "ok", "a", "did a")], [did("a")]),
        ([A[0], Lag(1.9, 1.2), A[1]], [did("a"), did("a", 2.0)]),
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


def many(begin: float, count: int = 1000) -> tuple[list[Line], list[Effect]]:
    """Commands one after the other, ten a second, each handled once."""
    history: list[Line] = []
    effects: list[Effect] = []
    for number in range(count):
        time = begin + number / 10
        history += [command(time, "invoke", f"c{number}"), command(time + 0.05, "ok", f"c{number}", f"did c{number}")]
        effects.append(did(f"c{number}", time + 0.02))
    return history, effects


def duplicates(history: list[Line], effects: list[Effect]) -> int:
    anomalies = judge(sorted(history, key=lambda line: line.time), sorted(effects, key=lambda one: one.time)).anomalies
    assert {anomaly.name for anomaly in anomalies} <= {"duplicate"}
    return len(anomalies)


def test_a_fault_explains_no_double_delivery_of_what_comes_long_after_it() -> None:
    history, effects = many(100.0)
    again = [did(effect.id, effect.time + 0.01) for effect in effects]
    assert duplicates([*A, KILL, *history], [did("a"), *effects, *again]) == 1000


def test_one_that_was_slow_explains_repeats_behind_it_in_its_partition_and_of_no_others() -> None:
    history, effects = many(0.0)
    slow = 600
    effects[slow] = did(f"c{slow}", 70.1)
    log: list[Line] = [Stored(200.0, f"g: t/{number % 2}", number // 2, f"c{number}") for number in range(1000)]
    log += [Commit(200.0, f"g: t/{number}", 500) for number in range(2)]
    again = [did(effect.id, 75.0) for effect in effects[500:700]]
    # The kill is at 70: all before the slow one is wrong, and all of the other partition but what came within half a second.
    assert 145 <= duplicates([*history, later(70), *log], [*effects, *again]) <= 150


def test_where_nothing_was_ever_committed_a_kill_shows_it() -> None:
    history, effects = many(0.0)
    again = [did(effect.id, 60.0 + effect.time / 100) for effect in effects if effect.time < 60.0]
    # What was handled in the half second before the kill may come again.
    assert 590 <= duplicates([*history, later(60)], [*effects, *again]) < 600


def test_a_topic_that_another_process_reads_again_from_the_beginning_is_found() -> None:
    history: list[Line] = [*published(1000), *(at(number, number) for number in range(1000))]
    effects = [*map(saw, range(1000)), *(saw(number, process=2, time=1001.0) for number in range(1000))]
    assert 999 <= duplicates([*history, later(999.2), Commit(1002.0, "g: t/0", 1000)], effects) < 1000


def test_many_faults_do_not_explain_many_deliveries_of_what_each_of_them_has_not_reached() -> None:
    history, effects = many(0.0)
    storm: list[Line] = [later(2 * number) for number in range(40)]
    again = [did(effect.id, effect.time + 50.0 + more) for effect in effects for more in range(10)]
    assert duplicates([*history, *storm], [*effects, *again]) == 1000


def test_a_recovery_may_take_longer_by_what_the_machine_was_late_meanwhile() -> None:
    history: list[Line] = [A[0], Lag(1.4, 0.5), KILL, Lag(2.0, 0.25), Lag(8.0, 0.5), command(9.5, "ok", "a", "did a")]
    report = judge([*history, Lag(9.9, 0.75)], [did("a")])
    assert (report.recoveries_s, report.lag_s) == ((8.0,), 1.5)
    assert report.recovers_within(7.25)
    assert not report.recovers_within(7.2)


def test_many_small_delays_of_the_machine_hide_no_long_recovery() -> None:
    history: list[Line] = [A[0], KILL, *lateness(2.0, 32.0), command(32.0, "ok", "a", "did a")]
    report = judge(history, [did("a", 31.0)])
    assert report.recoveries_s == (30.5,)
    assert not report.recovers_within(25.0)
    assert report.recovers_within(30.5 - LAG_CAP_S)


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
