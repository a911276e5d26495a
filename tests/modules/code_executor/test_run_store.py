"""The runs that are kept have a bound of count and one of bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from fissile.testing import ManualClock
from modules.code_executor.contract import RunFailure, RunReport, UnknownRun
from modules.code_executor.runs import RunStore

MIB = 1 << 20


def report(run_id: str, text: str, outcome: str = "finished") -> RunReport:
    return RunReport(run_id, outcome, 0, text, text, 1.0, None, False, "python", "fake")


def test_reports_take_no_more_than_their_bound_whatever_is_in_them_and_the_oldest_make_room() -> None:
    store = RunStore(ManualClock(), 1000, 4 * MIB)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(300):  # one character makes each of all others four bytes of memory
            store.add(str(number), "python")
            store.finished(report(str(number), f"😀{number:06}" + "a" * 65_526))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert store.size <= 4 * MIB
    assert grown < 8 * MIB  # as text it would be four times the bound
    kept = [number for number in range(300) if store.knows(str(number))]
    assert kept == list(range(300 - len(kept), 300))
    assert len(kept) >= 30
    found = store.get("299").report
    assert found is not None
    assert found.stdout == found.stderr == "😀000299" + "a" * 65_526
    with pytest.raises(UnknownRun):
        store.get("0")


def test_one_run_is_kept_however_large_it_is() -> None:
    store = RunStore(ManualClock(), 1000, 1)
    for number in range(3):
        store.finished(report(str(number), "x" * 1000))
    assert [run.run_id for run in store.page(10, None).runs] == ["2"]


def test_what_is_told_late_does_not_change_what_is_over() -> None:
    store = RunStore(ManualClock(), 10, MIB)
    store.add("a", "python")
    store.finished(report("a", "1"))
    late: tuple[Callable[[], None], ...] = (
        lambda: store.add("a", "python"),
        lambda: store.running("a"),
        lambda: store.failed("a", RunFailure("error", "")),
        lambda: store.finished(report("a", "2", "killed")),
    )
    for tell in late:
        tell()
        run = store.get("a")
        assert (run.summary.state, run.summary.outcome, run.failure) == ("done", "finished", None)
        assert run.report == report("a", "1")


def test_bytes_are_counted_also_where_runs_come_and_go() -> None:
    store = RunStore(ManualClock(), 3, MIB)
    for number in range(50):
        store.add(str(number), "python")
        store.running(str(number))
        store.cancel(str(number))
        store.finished(report(str(number), "x" * number))
    alone = RunStore(ManualClock(), 3, MIB)
    for number in range(47, 50):
        alone.finished(report(str(number), "x" * number))
    assert store.size == alone.size
