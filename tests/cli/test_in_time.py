"""What `fissile tail` shows of the past: in the order of time, and of each partition in its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fissile.abc import Partition, Reader, Record, Status
from fissile.cli._in_time import InTime

Stored = tuple[Partition, int]
"""Where a record is, and when it was stored."""


class Fetched(Reader):
    """Gives records in batches as they were fetched, then nothing more."""

    def __init__(self, batches: Sequence[Sequence[Record]], ends: dict[Partition, int]) -> None:
        self.begins, self.ends = dict.fromkeys(ends, 0), ends
        self.batches = list(batches)

    async def receive(self) -> Sequence[Record]:
        if not self.batches:
            await anyio.sleep_forever()
        return self.batches.pop(0)

    def positions(self) -> Mapping[Partition, int]:
        raise NotImplementedError

    def status(self) -> Status:
        raise NotImplementedError


def record(place: Partition, offset: int, at: int) -> Record:
    return Record(place[0], place[1], offset, None, b"", (), at)


async def shown(reader: Reader, count: int) -> list[Record]:
    found: list[Record] = []
    in_time = InTime(reader)
    with anyio.fail_after(20):
        while len(found) < count:
            found += await in_time.receive()
    return found


@given(
    times=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2)), st.lists(st.integers(0, 50), max_size=8), min_size=1
    ),
    data=st.data(),
)
def test_the_past_comes_in_the_order_of_time_however_it_is_fetched(
    times: dict[Partition, list[int]], data: st.DataObject
) -> None:
    stored = {
        place: [record(place, offset, at) for offset, at in enumerate(sorted(moments))]
        for place, moments in times.items()
    }
    ends = {place: len(records) for place, records in stored.items()}
    batches: list[list[Record]] = []
    left = {place: list(records) for place, records in stored.items() if records}
    while left:
        place = data.draw(st.sampled_from(sorted(left)))
        size = data.draw(st.integers(1, len(left[place])))
        batches.append(left[place][:size])
        left[place] = left[place][size:]
        if not left[place]:
            del left[place]
    total = sum(ends.values())
    found = anyio.run(shown, Fetched(batches, ends), total)
    assert [one.timestamp_ms for one in found] == sorted(one.timestamp_ms for one in found)
    assert {place: [one for one in found if (one.topic, one.partition) == place] for place in stored} == stored


async def test_what_comes_later_comes_as_it_is_read() -> None:
    a, b = ("t", 0), ("t", 1)
    batches = [[record(a, 0, 9)], [record(b, 0, 1), record(b, 1, 99)], [record(a, 1, 50)]]
    found = await shown(Fetched(batches, {a: 1, b: 1}), 4)
    assert [one.timestamp_ms for one in found] == [1, 9, 99, 50]


async def test_a_record_that_never_comes_holds_the_others_back_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fissile.cli._in_time.PATIENCE_S", 0.01)
    a, b = ("t", 0), ("t", 1)
    found = await shown(Fetched([[record(a, 0, 9)]], {a: 1, b: 1}), 1)
    assert [one.timestamp_ms for one in found] == [9]
