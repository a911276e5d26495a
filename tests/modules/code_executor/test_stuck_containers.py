"""A container that its engine does not remove is tried again, less and less often."""

from __future__ import annotations

import logging

import pytest

from modules.code_executor.sandbox import Limits
from modules.code_executor.sandbox._container import Shape

from .fake_engine import FakeEngine, pool_of


class Hands:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def test_a_container_that_is_not_removed_is_tried_again_after_a_second_and_then_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    engine, clock = FakeEngine(), Hands()
    with pool_of(engine, spare=0, now_s=clock) as pool:
        stuck = pool.take(Shape.of(Limits()))
        engine.keeps.add(stuck.name)
        pool.give_back(stuck, wait=True)
        waits = []
        while len(engine.tried) < 10:
            tried = len(engine.tried)
            pool.put_right()
            assert len(engine.tried) == tried, "it is not yet time"
            begun_s = clock.at_s
            while len(engine.tried) == tried:
                clock.at_s = pool.next_s()
                pool.put_right()
            waits.append(clock.at_s - begun_s)
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert stuck.name in caplog.text
        engine.keeps.clear()
        clock.at_s += 60.0
        pool.put_right()
        assert engine.there == {}
        assert "removed at last" in caplog.text
        tried = len(engine.tried)
        clock.at_s += 1.0
        pool.put_right()
        assert len(engine.tried) == tried
