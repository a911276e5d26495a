"""The log in a file: several processes, some of which are killed or stopped; what is wrong with files and disks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import IO, Any

import anyio
import pytest

from fissile import Settings, StartupFailed, Unavailable
from fissile._clock import SystemClock
from fissile.abc import Assigned, Outgoing, Record, Revoked, TopicSpec
from fissile.testing import ManualClock
from fissile.transports import open_transport
from fissile.transports._sqlite_options import Options
from fissile.transports.sqlite import SqliteTransport, transport
from tests.transports.sqlite_process import TOPIC, client

PATIENCE_S = 30.0
DAY_S = 86_400.0

without_uvloop = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""For tests of what is below the event loop: uvloop runs the same code as asyncio."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the log, in a folder that is not there yet."""
    return tmp_path / "data" / "log.sqlite3"


class Child:
    """Another process on the log, and what it has told."""

    def __init__(self, mode: str, path: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-m", "tests.transports.sqlite_process", mode, str(path), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.told: list[Any] = []
        self._reader = Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if line.endswith("\n"):
                self.told.append(json.loads(line))

    def wait(self, condition: Callable[[list[Any]], Any], what: str) -> Any:
        """Wait until what it has told fulfils a condition; return what that says."""
        end = monotonic() + PATIENCE_S
        while not (found := condition(self.told)):
            assert monotonic() < end, f"no {what} in {self.told[-20:]}"
            assert self._reader.is_alive() or self.process.poll() in (None, 0), f"it failed before {what}"
            sleep(0.005)
        return found

    def wait_for(self, key: str, value: object) -> dict[str, Any]:
        """Wait until it tells something."""
        found: dict[str, Any] = self.wait(
            lambda told: next((each for each in told if isinstance(each, dict) and each.get(key) == value), None),
            f"{key}={value}",
        )
        return found

    def say(self, line: str) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait for what it had told."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    def close(self) -> None:
        """End it."""
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def child(mode: str, path: Path, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[Child]:
    """Run another process on the log."""
    found = Child(mode, path, *arguments, before=before)
    try:
        yield found
    finally:
        found.close()


async def everything(found: SqliteTransport, topic: TopicSpec = TOPIC) -> list[Record]:
    """All that the log has now."""
    records: list[Record] = []
    partitions = [(topic.name, number) for number in range(topic.partitions)]
    async with found.read(partitions, "earliest") as reader:
        with anyio.fail_after(PATIENCE_S):
            while len(records) < sum(reader.ends.values()) - sum(reader.begins.values()):
                records += await reader.receive()
    return records


def out(value: str, key: str = "k") -> Outgoing:
    return Outgoing("t", key.encode(), value.encode(), ())


# --- processes that are killed ---------------------------------------------------------------------------------------


def is_longer(count: int, told: list[Any]) -> bool:
    return len(told) > count


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_acknowledged_before_a_kill_is_there_in_order_and_no_offset_was_given_twice(path: Path) -> None:
    with child("append", path, "survivor") as survivor:
        told: list[list[Any]] = []
        for number in range(3):
            with child("append", path, f"victim{number}.") as victim:
                victim.wait(lambda told: len(told) > 300, "300 records")
                enough = len(survivor.told) + 100
                victim.kill()
                told += victim.told
                survivor.wait(partial(is_longer, enough), "records after the kill")
        survivor.kill()
        told += survivor.told
    async with client(path) as found:
        records = await everything(found)
    places = {(record.partition, record.offset): record.value.decode() for record in records}
    assert len(places) == len(records)
    assert {(partition, offset): f"{key} {number}" for key, number, partition, offset in told}.items() <= places.items()
    numbers: dict[str, list[int]] = defaultdict(list)
    for record in records:
        key, _, text = record.value.decode().partition(" ")
        numbers[key].append(int(text))
    assert len(numbers) == 64
    assert all(found == list(range(len(found))) for found in numbers.values())
    for partition in range(4):
        offsets = [record.offset for record in records if record.partition == partition]
        assert offsets == list(range(len(offsets)))


def records_in(told: list[Any]) -> int:
    return sum("record" in each for each in told)


def all_assigned(told: list[Any]) -> bool:
    return any(isinstance(each, dict) and each.get("assigned") == [0, 1, 2, 3] for each in told)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_processes_share_a_group_and_a_killed_one_loses_its_partitions_at_once(path: Path) -> None:
    # Only the kernel can tell so soon; where it cannot, the session ends.
    session_s = "600" if sys.platform == "linux" else "1"
    with child("follow", path, session_s) as first:
        first.wait(all_assigned, "all partitions")
        with child("follow", path, session_s) as second:
            # The later member gets the later half.
            first.wait_for("assigned", [0, 1])
            second.wait_for("assigned", [2, 3])
            async with client(path, session_s=float(session_s)) as found:
                await found.ensure([TOPIC])
                await found.append([out(f"{number}", f"{number}") for number in range(40)])
                first.wait(lambda told: records_in(told) + records_in(second.told) == 40, "40 records")
                assert {each["partition"] for each in second.told if "record" in each} == {2, 3}
                first.told.clear()
                second.kill()
                first.wait(all_assigned, "all partitions again")
                # The second had committed nothing: what it had seen comes again.
                first.wait(
                    lambda told: {each["partition"] for each in told if "record" in each} >= {2, 3}, "them again"
                )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stopped_process_loses_its_partitions_after_its_session_and_its_commit_is_refused(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        await found.append([out("a")])
    with child("follow", path) as zombie:
        generation = zombie.wait_for("assigned", [0, 1, 2, 3])["generation"]
        zombie.wait_for("record", "a")
        zombie.process.send_signal(signal.SIGSTOP)
        zombie.say(f"{generation}")
        with child("follow", path) as heir:
            heir.wait(all_assigned, "all partitions")
            heir.wait_for("record", "a")
            zombie.process.send_signal(signal.SIGCONT)
            zombie.wait_for("committed", False)
            zombie.wait_for("revoked", generation)
            # It comes back as a new member does.
            zombie.wait_for("assigned", [2, 3])
            heir.wait_for("assigned", [0, 1])


async def test_what_another_process_stores_comes_without_being_asked_for(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        async with found.read([("t", number) for number in range(4)], "latest") as reader:
            with child("append", path, "other"), anyio.fail_after(PATIENCE_S):
                assert (await reader.receive())[0].value.startswith(b"other")


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_records_offsets_and_commits_are_there_when_it_is_opened_again(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        stored = await found.append([out("a"), out("b")])
        async with found.join("g", {"t": "earliest"}) as member:
            assigned = await member.receive()
            assert isinstance(assigned, Assigned)
            assert await member.commit(assigned.generation, {("t", stored[0][0]): stored[1][1]})
    async with client(path) as found:
        await found.ensure([TOPIC])
        assert [record.value for record in await everything(found)] == [b"a", b"b"]
        assert await found.append([out("c")]) == [(stored[0][0], stored[1][1] + 1)]
        async with found.join("g", {"t": "earliest"}) as member:
            again = await member.receive()
            assert isinstance(again, Assigned)
            assert again.generation > assigned.generation
            records = await member.receive()
            assert not isinstance(records, (Assigned, Revoked))
            assert records[0].value == b"b"


async def test_a_topic_that_becomes_compacted_keeps_the_last_record_of_each_key(path: Path) -> None:
    clock = ManualClock()
    async with SqliteTransport(Options(path, housekeeping_s=0.02), clock) as found:
        await found.ensure([TopicSpec("t", 1, DAY_S)])
        await found.append([out("a0", "a"), out("a1", "a"), out("b0", "b"), out("a2", "a"), out("b1", "b")])
        await found.ensure([TopicSpec("t", 1, DAY_S, is_compacted=True)])
        await found.append([out("b2", "b")])
        clock.advance(600)
        with anyio.fail_after(PATIENCE_S):
            while True:
                async with found.read([("t", 0)], "earliest") as reader:
                    if reader.begins["t", 0] == 3:
                        break
        async with found.read([("t", 0)], "earliest") as reader:
            records = list(await reader.receive())
        assert [record.value for record in records] == [b"a2", b"b2"]


async def test_the_file_becomes_smaller_when_much_has_gone_and_storing_goes_on_meanwhile(path: Path) -> None:
    clock = ManualClock()
    async with SqliteTransport(Options(path, housekeeping_s=0.02), clock) as found:
        await found.ensure([TopicSpec("t", 1, DAY_S)])
        for number in range(40):
            await found.append([Outgoing("t", b"k", bytes([number]) * 1_000_000, ())])
        with closing(sqlite3.connect(path)) as other:
            (pages,) = other.execute("PRAGMA page_count").fetchone()
            clock.advance(2 * DAY_S)
            with anyio.fail_after(PATIENCE_S):
                while other.execute("PRAGMA page_count").fetchone()[0] > pages // 2:
                    await found.append([out("small")])
        assert found.check() is None
        async with found.read([("t", 0)], "earliest") as reader:
            assert (await reader.receive())[0].value == b"small"


# --- disks, locks and files ------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_and_loses_nothing_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=4m none $0 && exec "$@"'
    folder = tmp_path / "disk"
    folder.mkdir()
    before = ("unshare", "-Urm", "sh", "-c", mount, str(folder))
    tried = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {tried.stderr.strip()}")
    with child("fill", folder / "log.sqlite3", before=before) as filling:
        told = filling.wait(lambda told: told if told and "kept" in told[-1] else None, "the end")
    refused, again, after, end = told
    assert "The disk of" in refused["refused"]
    assert "is full. Nothing was stored" in refused["refused"]
    assert refused["check"] == refused["refused"]
    assert "is full" in again["refused"]
    assert after == {"check": None}
    assert end["kept"] is True
    assert end["count"] > 50


@without_uvloop
async def test_a_file_that_another_program_locks_for_two_seconds_delays_and_refuses_nothing(path: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0.001)

    async with client(path) as found, anyio.create_task_group() as tasks:
        await found.ensure([TOPIC])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            tasks.start_soon(count)
            told: list[object] = []
            for number in range(10):
                found.append_nowait([out(f"{number}")], told.append)
            await anyio.sleep(2.0)
            assert told == []
            assert turns > 100  # the event loop was not blocked
            other.execute("COMMIT")
        await found.append([out("10")])
        assert len(told) == 10
        assert [record.value.decode() for record in await everything(found)] == [f"{number}" for number in range(11)]
        tasks.cancel_scope.cancel()


@without_uvloop
async def test_a_file_that_stays_locked_is_unavailable_and_did_not_happen(path: Path) -> None:
    async with client(path, append_s=0.3) as found:
        await found.ensure([TOPIC])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match=r"locked by another program\. Nothing was stored"):
                await found.append([out("never")])
            assert "locked by another program" in (found.check() or "")
        await found.append([out("a")])
        assert found.check() is None
        assert [record.value for record in await everything(found)] == [b"a"]


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


async def refusal(path: Path) -> str:
    """What is said at start."""
    with pytest.raises(StartupFailed) as raised:
        async with client(path):
            pass
    (fault,) = raised.value.faults
    assert fault.where == "FISSILE_BUS"
    assert fault.cure
    return fault.what


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    async with client(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    assert "was written by a newer version of fissile: it has format 99" in await refusal(path)


async def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE users (name)")
    before = content_of(path)
    assert "is a database of something else" in await refusal(path)
    assert content_of(path) == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    write(path, b"dear diary, " * 1000)
    assert "it is not even a SQLite file" in await refusal(path)
    assert content_of(path) == b"dear diary, " * 1000


async def test_a_damaged_file_is_refused(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        await found.append([out("x" * 50_000) for _ in range(10)])
    content = bytearray(content_of(path))
    content[8192 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 8192)
    write(path, bytes(content))
    assert "is damaged" in await refusal(path)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "cannot be opened for writing" in await refusal(tmp_path / "data" / "log.sqlite3")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    assert "cannot be opened for writing: Permission denied" in await refusal(tmp_path / "data" / "log.sqlite3")


async def test_nothing_is_acknowledged_once_the_file_was_removed(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        remove(path)
        with anyio.fail_after(PATIENCE_S):
            while found.check() is None:
                await anyio.sleep(0.01)
        assert "was removed or replaced" in (found.check() or "")
        with pytest.raises(Unavailable, match="removed or replaced"):
            await found.append([out("a")])


async def test_only_its_owner_may_read_the_file(path: Path) -> None:
    async with client(path) as found:
        await found.ensure([TOPIC])
        async with found.join("g", {"t": "earliest"}) as member:
            await member.receive()
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes.pop(path.name) == 0o600
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    "bus", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://data/log", "sqlite:///:memory:", "sqlite:///data/"]
)
def test_a_url_that_names_no_file_is_refused(bus: str) -> None:
    with pytest.raises(StartupFailed, match="names no file"):
        transport(Settings(bus=bus), SystemClock())


async def test_a_url_with_four_slashes_is_an_absolute_file(path: Path) -> None:
    async with open_transport(Settings(bus=f"sqlite:///{path}"), SystemClock()) as found:
        assert (found.durable, found.shared) == (True, True)
    assert content_of(path)


async def test_an_offset_that_has_expired_becomes_the_first_one_kept(path: Path) -> None:
    async with SqliteTransport(Options(path, retention_bytes=10, housekeeping_s=0.02), SystemClock()) as found:
        await found.ensure([TopicSpec("t", 1, DAY_S)])
        await found.append([out("x" * 100) for _ in range(10)])
        with anyio.fail_after(PATIENCE_S):
            while True:
                async with found.read([("t", 0)], {("t", 0): 2}) as reader:
                    if reader.begins["t", 0] == 9:
                        return
