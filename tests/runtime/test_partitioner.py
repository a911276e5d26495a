"""The partitioner is Kafka's: the values are those of Kafka's own tests (`UtilsTest.testMurmur2`)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fissile._partitioner import murmur2, partition_of

KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("data", KNOWN)
def test_the_hash_is_that_of_kafkas_clients(data: bytes) -> None:
    assert murmur2(data) == KNOWN[data] % 2**32


@given(st.binary(), st.integers(1, 1000))
def test_a_partition_is_in_range_and_always_the_same(key: bytes, partitions: int) -> None:
    partition = partition_of(key, partitions)
    assert 0 <= partition < partitions
    assert partition == partition_of(bytes(bytearray(key)), partitions)


@given(st.binary(max_size=64))
def test_the_partition_is_that_of_the_hash_without_its_sign(key: bytes) -> None:
    assert partition_of(key, 7) == (murmur2(key) % 2**31) % 7
