"""A policy that makes no sense is refused where it is written."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from fissile import Retry


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"attempts": 0}, "attempts=0, and the first time counts as one"),
        ({"attempts": -1}, "attempts=-1"),
        ({"first_s": -1.0}, "first_s=-1.0, and a pause has 0 seconds or more"),
        ({"first_s": float("nan")}, "first_s=nan"),
        (
            {"first_s": 10.0, "longest_s": 1.0},
            "longest_s=1.0, and the longest pause cannot be shorter than the first one",
        ),
        ({"longest_s": float("nan")}, "longest_s=nan"),
        ({"longest_s": float("inf")}, "longest_s=inf"),
        ({"jitter": 1.5}, "jitter=1.5, and a share is between 0 and 1"),
        ({"jitter": -0.1}, "jitter=-0.1"),
        ({"permanent": ("ValueError",)}, "permanent names 'ValueError', which is no class of errors"),
        ({"permanent": (ValueError, int)}, "permanent names <class 'int'>"),
        ({"permanent": (ValueError("x"),)}, "which is no class of errors"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="This is no policy for a retry: ") as refused:
        Retry(**values)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"attempts": 1},
        {"first_s": 0.0, "longest_s": 0.0, "jitter": 0.0},
        {"first_s": 3.0, "longest_s": 3.0, "jitter": 1.0},
        {"permanent": (LookupError, KeyboardInterrupt)},
    ],
)
def test_what_is_at_its_bound_is_a_policy(values: dict[str, Any]) -> None:
    assert Retry(**values) == Retry(**values)


def test_the_pause_after_any_number_of_failures_is_the_longest_at_most() -> None:
    assert Retry(longest_s=30.0, jitter=0.0).pause_s(1_000_000, Random()) == 30.0
