"""What aiokafka logs while a broker is away: each thing once in a while."""

from __future__ import annotations

import logging

import pytest

from fissile.transports import _kafka_log


def said(text: str, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("aiokafka", level, __file__, 1, "Unable connect to %s", (text,), None)


def test_the_same_is_told_once_in_a_while_and_how_often_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(_kafka_log, "monotonic", lambda: now)
    seldom = _kafka_log.Seldom()
    assert seldom.filter(said("one"))
    assert seldom.filter(said("another"))
    assert not seldom.filter(said("one"))
    assert not seldom.filter(said("one"))
    assert seldom.filter(said("one", logging.DEBUG))
    now = 31.0
    again = said("one")
    assert seldom.filter(again)
    assert again.getMessage() == "Unable connect to one (2 times more since it was told last)"


def test_what_is_remembered_of_it_has_a_bound() -> None:
    seldom = _kafka_log.Seldom()
    for number in range(5000):
        assert seldom.filter(said(str(number)))
    assert len(seldom._told) <= 1000
