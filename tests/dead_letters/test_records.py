"""What a dead letter looks like in a log: it comes back as it was, as a letter and as a retried message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fissile._delivery.dead_letters import STATES, DeadLetter, edited, fold, read, tombstone, write, write_retry
from fissile.abc import Outgoing, Record

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
names = st.sampled_from(
    ["ce_id", "ce_type", "traceparent", "fissile-key", "fissile-handler", "__dlq.errors.id", "__dlq.errors.state"]
)
headers = st.lists(st.tuples(names, st.binary(max_size=10)), max_size=6).map(tuple)
moments = st.integers(0, 10**12).map(lambda ms: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))


def text_of(found: tuple[tuple[str, bytes], ...], name: str) -> str:
    """What the first header of a name says; nothing where it is no text."""
    value = next((value for key, value in found if key == name), b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""


@st.composite
def letters(draw: st.DrawFn) -> DeadLetter:
    found, key = draw(headers), draw(st.none() | st.binary(max_size=20))
    edits = draw(st.integers(0, 3))
    return DeadLetter(
        id=draw(st.text("0123456789abcdef", min_size=1, max_size=20)),
        module="billing",
        handler=draw(texts),
        name=text_of(found, "ce_type"),
        message_id=text_of(found, "ce_id"),
        key=(key or b"").decode(errors="replace"),
        body=draw(st.binary(max_size=40)),
        headers=found,
        reason=draw(texts),
        error_type=draw(texts),
        traceback=draw(texts),
        attempts=draw(st.integers(0, 10**6)),
        topic=draw(texts),
        partition=draw(st.integers(0, 1000)),
        offset=draw(st.integers(0, 2**62)),
        timestamp_ms=draw(st.integers(0, 2**42)),
        group=draw(texts),
        state=draw(st.sampled_from(STATES)),
        first_failed=draw(moments),
        last_failed=draw(moments),
        edits=edits,
        original=draw(st.none() | st.binary(max_size=20)),
        is_complete=draw(st.booleans()),
        raw_key=key,
    )


def stored(outgoing: Outgoing, offset: int = 0) -> Record:
    return Record(outgoing.topic, 0, offset, outgoing.key, outgoing.value or b"", outgoing.headers, 0)


@given(letters())
def test_a_letter_comes_back_as_it_was_whatever_headers_its_message_had(letter: DeadLetter) -> None:
    assert read("billing", stored(write("billing.dead-letters", letter))) == letter


@given(letters())
def test_a_retried_message_is_the_original_and_knows_its_letter(letter: DeadLetter) -> None:
    sent = write_retry("billing.requests", letter)
    assert (sent.key, sent.value, sent.headers[: len(letter.headers)]) == (letter.raw_key, letter.body, letter.headers)
    back = read("billing", stored(sent))
    assert back is not None
    assert (back.id, back.headers, back.body, back.handler, back.attempts) == (
        letter.id,
        letter.headers,
        letter.body,
        letter.handler,
        letter.attempts,
    )
    assert (back.topic, back.partition, back.offset, back.timestamp_ms) == (
        letter.topic,
        letter.partition,
        letter.offset,
        letter.timestamp_ms,
    )
    assert (back.first_failed, back.edits, back.original) == (letter.first_failed, letter.edits, letter.original)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*STATES, "resolved"])), max_size=12))
def test_the_last_record_of_an_id_counts_and_one_without_a_value_ends_it(steps: list[tuple[str, str]]) -> None:
    made = DeadLetter("", "billing", "", "", "", "", b"", (), "", "", "", 1, "", 0, 0)
    expected: dict[str, str] = {}
    records: list[Record] = []
    for offset, (name, step) in enumerate(steps):
        if step == "resolved":
            expected.pop(name, None)
            records.append(stored(tombstone("t", name), offset))
        else:
            expected[name] = step
            letter = evolve(made, id=name, state=next(state for state in STATES if state == step))
            records.append(stored(write("t", letter), offset))
    found: dict[str, DeadLetter] = {}
    fold(found, "billing", records)
    assert {name: letter.state for name, letter in found.items()} == expected


@pytest.mark.parametrize(("size", "is_kept"), [(16_384, True), (16_385, False)])
def test_the_body_before_an_edit_is_kept_while_it_is_small(size: int, is_kept: bool) -> None:
    letter = DeadLetter("i", "billing", "", "", "m", "k", b"x" * size, (("ce_id", b"m"),), "", "", "", 1, "", 0, 0)
    changed = edited(letter, b"new", b"k")
    assert changed.original == (letter.body if is_kept else None)
    assert edited(changed, b"newer", b"k").original == changed.original
    assert edited(changed, b"newer", b"k").headers == (("ce_id", b"m~2"),)
