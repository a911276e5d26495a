"""Looks at a log in a file from outside: topics, processes, members, offsets. It makes nothing and changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

from attrs import frozen

from fissile.abc import Partition
from fissile.transports._sqlite_alive import Alive
from fissile.transports._sqlite_file import check_owner, explained
from fissile.transports._sqlite_log import ends_of, find_topics, first_kept

_SILENT_S = 30.0
"""After which silence a process is no longer shown where the kernel cannot tell."""
_GUESTS = (".client", ".cli")
"""What the names of processes end with that come to ask, and go."""


@frozen
class MemberSeen:
    """A member of a consumer group.

    Attributes:
        group: The group.
        member: Its number.
        client: What its process is called.
        pid: Its process.
        partitions: What it holds.
    """

    group: str
    member: int
    client: str
    pid: int
    partitions: tuple[Partition, ...]


@frozen
class FileView:
    """A file that is looked at."""

    connection: sqlite3.Connection
    alive: Alive

    def topics(self, names: Collection[str]) -> dict[str, int]:
        """Return how many partitions each topic has that is there."""
        return {name: len(topic.logs) for name, topic in find_topics(self.connection, names).items()}

    def members(self, groups: Iterable[str]) -> list[MemberSeen]:
        """Return the members of groups whose processes live; a group that is not there has none."""
        found: list[MemberSeen] = []
        for group in groups:
            rows = self.connection.execute(
                "SELECT members.id, client, pid, processes.id, locks, seen_s FROM members"
                ' JOIN processes ON processes.id = process WHERE "group" = ? ORDER BY members.id',
                (group,),
            ).fetchall()
            for member, client, pid, process, locks, seen_s in rows:
                if self._lives(process, locks, seen_s):
                    held = self.connection.execute(
                        "SELECT topics.name, partition FROM shares JOIN logs ON logs.id = shares.log"
                        " JOIN topics ON topics.id = topic WHERE member = ? ORDER BY topics.name, partition",
                        (member,),
                    ).fetchall()
                    found.append(MemberSeen(group, member, client, pid, tuple(held)))
        return found

    def is_hosted(self) -> bool:
        """Tell whether a process lives that hosts modules, and has not only come to ask."""
        query = "SELECT id, client, locks, seen_s FROM processes WHERE id IN (SELECT process FROM members)"
        rows = self.connection.execute(query).fetchall()
        return any(
            self._lives(process, locks, seen_s) and not client.endswith(_GUESTS)
            for process, client, locks, seen_s in rows
        )

    def _lives(self, process: int, locks: int, seen_s: float) -> bool:
        if locks:
            return not self.alive.is_dead(process)
        now = monotonic()
        return now - _SILENT_S <= seen_s <= now + 1.0

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the offsets that a group has committed, or begun at; nothing for partitions where it has not."""
        rows = self.connection.execute(
            "SELECT topics.name, partition, offsets.next_offset FROM offsets JOIN logs ON logs.id = log"
            ' JOIN topics ON topics.id = topic WHERE "group" = ?',
            (group,),
        )
        found = {(name, number): offset for name, number, offset in rows}
        return {partition: found[partition] for partition in partitions if partition in found}

    def bounds(self, partitions: Iterable[Partition]) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return the first offset kept and the next one to come, per partition."""
        wanted = tuple(partitions)
        topics = find_topics(self.connection, {topic for topic, _ in wanted})
        logs = {(topic, number): topics[topic].logs[number] for topic, number in wanted}
        all_ends = ends_of(self.connection)
        ends = {partition: all_ends[log] for partition, log in logs.items()}
        return {partition: first_kept(self.connection, log, ends[partition]) for partition, log in logs.items()}, ends


@contextmanager
def looking_at(path: Path) -> Generator[FileView | None]:
    """Look at a file; None if there is no log in it yet.

    Raises:
        StartupFailed: The file is not ours, or damaged.
        Unavailable: Another program holds it locked.
    """
    if not path.is_file():
        yield None
        return
    alive = Alive(path)
    with explained(path):
        # Not read-only: who looks at a file that nobody has open makes the files beside it, as SQLite wants.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = 1")
            is_empty = check_owner(connection, path)
            alive.look()
            try:
                yield None if is_empty else FileView(connection, alive)
            finally:
                alive.close()


def is_hosted(path: Path) -> bool:
    """Tell whether a process lives that hosts modules on a log.

    Raises:
        StartupFailed: The file is not ours, or damaged.
        Unavailable: Another program holds it locked.
    """
    with looking_at(path) as view:
        return view is not None and view.is_hosted()
