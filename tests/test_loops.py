"""Each test runs on the event loop that is asked for, and none is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.loops import LOOPS, chosen

A, B, C = "tests/far/test_a.py::test_a", "tests/far/test_b.py::test_b", "tests/near/test_c.py::test_c"


def test_a_test_runs_on_the_loop_that_is_asked_for() -> None:
    assert chosen([f"{A}[asyncio]", f"{A}[uvloop]", f"{A}[trio]"], ["trio"]) == {f"{A}[trio]"}


def test_a_test_runs_on_both_loops_that_are_asked_for() -> None:
    assert chosen([f"{A}[asyncio]", f"{A}[uvloop]", f"{A}[trio]"], LOOPS[::2]) == {f"{A}[asyncio]", f"{A}[trio]"}


def test_a_test_that_does_not_know_the_loop_runs_on_another() -> None:
    assert chosen([f"{A}[asyncio-1]", f"{A}[uvloop-1]", f"{B}[x-trio]", B], ["trio"]) == {
        f"{A}[asyncio-1]",
        f"{B}[x-trio]",
        B,
    }


def test_each_case_of_a_test_is_looked_at_by_itself() -> None:
    assert chosen([f"{A}[trio-1]", f"{A}[asyncio-1]", f"{A}[asyncio-2]"], ["trio"]) == {
        f"{A}[trio-1]",
        f"{A}[asyncio-2]",
    }


def test_a_test_that_is_near_the_loops_runs_on_all_of_them() -> None:
    names = [f"{C}[asyncio]", f"{C}[trio]", f"{A}[asyncio]", f"{A}[trio]"]
    assert chosen(names, ["trio"], ["tests/near"]) == {f"{C}[asyncio]", f"{C}[trio]", f"{A}[trio]"}


def test_a_case_that_only_sounds_like_a_loop_is_none() -> None:
    assert chosen([f"{A}[trio_like]", f"{A}[no-trios]"], ["asyncio"]) == {f"{A}[trio_like]", f"{A}[no-trios]"}


@given(
    st.sets(st.tuples(st.sampled_from([A, B, C]), st.sampled_from(LOOPS), st.sampled_from("123"))),
    st.sampled_from(LOOPS),
)
def test_no_test_and_no_case_of_one_is_left_out(found: set[tuple[str, str, str]], loop: str) -> None:
    kept = chosen([f"{test}[{on}-{case}]" for test, on, case in found], [loop])
    for test, _, case in found:
        assert sum(f"{test}[{on}-{case}]" in kept for on in LOOPS) == 1
