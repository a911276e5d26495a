"""Batches that are whole and that aiokafka cannot read: the name of a header in it is no UTF-8, as any program may write it.

Kafka does not look into names, and its own client for Java replaces what it cannot decode. So does this: the record is read, and what becomes of
it is for whoever knows what its topic carries. aiokafka's reader cannot be told to; so where it fails, the batch is fetched again, and taken
apart here.

It belongs in the loop (see `_kafka_bridge.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgspec

from fissile.transports._kafka_library import library

_HEAD = Struct(">qiib")
"""Of a batch: its first offset, the length of what follows, an epoch, and the version of its format."""
_LENGTH_FROM = 12


class Reread(msgspec.Struct, frozen=True):
    """A record, with the fields that aiokafka's have."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def records_of(data: bytes, offset: int) -> tuple[list[Reread], int]:
    """Return the records of the first batch that reaches an offset, from that on, and where the batch ends.

    Args:
        data: What a fetch has brought.
        offset: The first offset wanted.

    Raises:
        ValueError: There is no such batch, or it is really damaged.
        Exception: It cannot be decompressed; each codec has errors of its own.
    """
    start = 0
    while start + _HEAD.size <= len(data):
        _, length, _, version = _HEAD.unpack_from(data, start)
        end = start + _LENGTH_FROM + length
        if version != 2 or length <= 0 or end > len(data):
            break
        # Any: the library has no types. Its reader in Python, whatever it uses itself: that one shows what it has decompressed.
        batch: Any = library("aiokafka.record.default_records")._DefaultRecordBatchPy(data[start:end])
        if batch.next_offset > offset:
            if not batch.validate_crc():
                break
            batch._maybe_uncompress()
            return [each for each in _records(batch) if each.offset >= offset], batch.next_offset
        start = end
    raise ValueError(f"There is no whole batch with the offset {offset}.")


def _records(batch: Any) -> list[Reread]:  # Any: as above
    found: list[Reread] = []
    reader = _Reader(bytes(batch._buffer), batch._pos)
    for _ in range(batch._num_records):
        size = reader.number()
        end = reader.place + size
        reader.number()  # its attributes: there are none
        since, distance = reader.number(), reader.number()
        time = batch.max_timestamp if batch.timestamp_type else batch.first_timestamp + since
        key, value = reader.bytes(), reader.bytes()
        headers = tuple(
            ((reader.bytes() or b"").decode("utf-8", "replace"), reader.bytes()) for _ in range(reader.number())
        )
        if reader.place != end:
            raise ValueError(f"The record at {batch.base_offset + distance} has another length than it says.")
        found.append(Reread(batch.base_offset + distance, time, key, value, headers))
    return found


class _Reader:
    def __init__(self, data: bytes, place: int) -> None:
        self.data = data
        self.place = place
        self._decode: Any = library("aiokafka.record.util").decode_varint  # Any: as above

    def number(self) -> int:
        value: int
        value, self.place = self._decode(self.data, self.place)
        return value

    def bytes(self) -> bytes | None:
        size = self.number()
        if size < 0:
            return None
        self.place += size
        return self.data[self.place - size : self.place]
