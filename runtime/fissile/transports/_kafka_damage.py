"""Batches that the broker has and nobody can read: their checksum is wrong, or they cannot be decompressed.

aiokafka raises in the middle of such a batch: it drops what it has taken out of other partitions, and what stands before the batch, and fetches
the same again for ever. So the iterator of each partition's records is replaced by one that ends before the batch, and tells.

It belongs in the loop (see `_kafka_bridge.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from fissile.abc import Partition


@frozen
class Damage:
    """A batch that cannot be read.

    Attributes:
        partition: Its physical partition, as aiokafka has it.
        offset: The first offset that cannot be read.
        next_offset: Where the batch ends, as its head says; the one after `offset` where that makes no sense.
        why: What is wrong with it.
        is_whole: Whether its checksum is right, so that another reader may be able to read it.
    """

    partition: Partition
    offset: int
    next_offset: int
    why: str
    is_whole: bool = False


class _Batches:
    """The batches of a fetch, of which the last is remembered: its head says where it ends. Any: the library has no types."""

    def __init__(self, batches: Any) -> None:
        self.has_next: Callable[[], bool] = batches.has_next
        self._next: Callable[[], Any] = batches.next_batch
        self.last: Any = None

    def next_batch(self) -> Any:  # Any: as above
        self.last = None
        self.last = self._next()
        return self.last

    def end(self, offset: int) -> int:
        """Return where the last one ends."""
        try:
            end = int(self.last.next_offset)
        except Exception:  # noqa: BLE001 -- it is damaged: anything may come out of it
            return offset + 1
        # A batch of fissile has fewer records than bytes, and none of Kafka's has more than these.
        return end if offset < end <= offset + 1_000_000 else offset + 1


def guard(fetched: Any, tell: Callable[[Damage], None]) -> None:  # Any: as above
    """Let what was fetched and not looked at yet end before the first batch that cannot be read.

    Args:
        fetched: What the fetcher has, by partition.
        tell: Called with the damage when that is reached.
    """
    for result in fetched.values():
        records = getattr(result, "_partition_records", None)
        if records is not None and not isinstance(records._records, _Batches):
            records._records = _Batches(records._records)
            records._records_iterator = _readable(records, records._records_iterator, tell)
            # Each record as it was read: aiokafka's own class of records takes as long to make as all that becomes of it here.
            records._consumer_record = _as_it_is


def _as_it_is(_partition: object, record: object) -> object:
    return record


def _readable(records: Any, iterator: Iterator[Any], tell: Callable[[Damage], None]) -> Iterator[Any]:  # Any: as above
    try:
        yield from iterator
    except Exception as error:  # noqa: BLE001 -- each codec has errors of its own
        offset: int = records.next_fetch_offset
        is_whole = "Invalid CRC" not in str(error)
        why = repr(error) if is_whole else "its checksum is wrong"
        tell(Damage(records._tp, offset, records._records.end(offset), why, is_whole))
