"""Consumer groups as rows of the file: processes, members, shares, offsets. Each method is part of a transaction of its caller.

Rebalances are eager, as aiokafka's are: all members are asked to hand over; when all have, or their time is up, the partitions are dealt out
anew under a new generation. Whoever writes next does what is to be done: there is no coordinator, only the lock of the file.

Times are of the monotonic clock, which the processes of a machine share until it starts anew; a time of the future is of before that.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from time import monotonic

import msgspec
from attrs import define, field

from fissile.abc import Partition, Start
from fissile.transports._sqlite_alive import Alive
from fissile.transports._sqlite_log import find_topics, first_kept
from fissile.transports._sqlite_options import Options

WAITING, HOLDING, HANDING_OVER = range(3)


class Held(msgspec.Struct, frozen=True):
    """One partition of a share: which, the number of its log, and where reading begins."""

    partition: Partition
    log: int
    position: int


@define(eq=False)
class Groups:
    """What a process does to the groups of the file.

    Attributes:
        options: Bounds.
        alive: The locks of this process.
        client: What this process is called: application and process.
        process: The number of this process, once it has one.
    """

    options: Options
    alive: Alive
    client: str
    process: int | None = None
    _locks: bool = field(default=False)

    # --- members -----------------------------------------------------------------------------------------------------

    def join(self, connection: sqlite3.Connection, group: str, topics: Mapping[str, Start]) -> int:
        """Add a member; return its number."""
        process = self._register(connection)
        connection.execute("INSERT OR IGNORE INTO groups (name) VALUES (?)", (group,))
        self._bury(connection)
        member = connection.execute(
            'INSERT INTO members ("group", process, topics, state, generation) VALUES (?, ?, ?, ?, 0)',
            (group, process, json.dumps(dict(topics)), WAITING),
        ).lastrowid
        self._rebalance(connection, group)
        return member or 0

    def hand_over(self, connection: sqlite3.Connection, member: int) -> bool:
        """Let go of what a member was asked for; return False if it is no member any more."""
        row = connection.execute('SELECT "group", state FROM members WHERE id = ?', (member,)).fetchone()
        if row is None:
            return False
        if row[1] == HANDING_OVER:
            connection.execute("UPDATE members SET state = ? WHERE id = ?", (WAITING, member))
            self._deal(connection, row[0])
        return True

    def leave(self, connection: sqlite3.Connection, member: int) -> None:
        """Remove a member."""
        row = connection.execute('SELECT "group" FROM members WHERE id = ?', (member,)).fetchone()
        if row is not None:
            connection.execute("DELETE FROM members WHERE id = ?", (member,))
            self._rebalance(connection, row[0])

    def commit(
        self, connection: sqlite3.Connection, member: int, generation: int, offsets: Mapping[Partition, int]
    ) -> bool:
        """Store offsets; return False if the member does not hold that generation."""
        query = 'SELECT "group", state, generation FROM members WHERE id = ?'
        row = connection.execute(query, (member,)).fetchone()
        if row is None or row[1] == WAITING or row[2] != generation:
            return False
        topics = find_topics(connection, {topic for topic, _ in offsets})
        connection.executemany(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
            [(row[0], topics[topic].logs[number], offset) for (topic, number), offset in offsets.items()],
        )
        return True

    def share_of(self, connection: sqlite3.Connection, member: int, ends: Mapping[int, int]) -> list[Held]:
        """Return what a member holds."""
        rows = connection.execute(
            "SELECT topics.name, topics.is_compacted, partition, logs.id, offsets.next_offset FROM shares"
            ' JOIN logs ON logs.id = shares.log JOIN topics ON topics.id = topic JOIN offsets ON offsets."group" = shares."group"'
            " AND offsets.log = shares.log WHERE member = ? ORDER BY topics.name, partition",
            (member,),
        ).fetchall()
        return [
            Held((name, number), log, offset if compacted else max(offset, first_kept(connection, log, ends[log])))
            for name, compacted, number, log, offset in rows
        ]

    # --- processes ---------------------------------------------------------------------------------------------------

    def _register(self, connection: sqlite3.Connection) -> int:
        if self.process is None:
            query = "INSERT INTO processes (pid, client, locks, seen_s) VALUES (?, ?, 0, ?)"
            self.process = connection.execute(query, (os.getpid(), self.client, monotonic())).lastrowid or 0
            # Held before anybody can read that it is: the row is seen after the commit.
            self._locks = self.alive.hold(self.process)
        self.beat(connection)
        return self.process

    def beat(self, connection: sqlite3.Connection) -> None:
        """Say that this process lives."""
        if self.process is not None:
            connection.execute(
                "INSERT OR REPLACE INTO processes (id, pid, client, locks, seen_s) VALUES (?, ?, ?, ?, ?)",
                (self.process, os.getpid(), self.client, self._locks, monotonic()),
            )

    def look_after(self, connection: sqlite3.Connection) -> None:
        """Say that this process lives, remove those that do not, and go on without members that have not handed over in time."""
        self.beat(connection)
        self._bury(connection)
        now = monotonic()
        late = "fence_s IS NOT NULL AND (fence_s <= ? OR fence_s > ?)"
        for (group,) in connection.execute(
            f"SELECT name FROM groups WHERE {late}",  # noqa: S608 -- ours
            (now, now + 10 * self.options.revoke_s + 60),
        ).fetchall():
            connection.execute('DELETE FROM members WHERE "group" = ? AND state = ?', (group, HANDING_OVER))
            self._deal(connection, group)

    def retire(self, connection: sqlite3.Connection) -> None:
        """Remove this process, and whatever members it still has."""
        if self.process is not None:
            self._remove(connection, self.process)

    def _bury(self, connection: sqlite3.Connection) -> None:
        now = monotonic()
        for process, locks, seen in connection.execute("SELECT id, locks, seen_s FROM processes").fetchall():
            is_silent = not now - self.options.session_s <= seen <= now + 1.0
            if process != self.process and (is_silent or (locks and self.alive.is_dead(process))):
                self._remove(connection, process)

    def _remove(self, connection: sqlite3.Connection, process: int) -> None:
        groups = connection.execute('SELECT DISTINCT "group" FROM members WHERE process = ?', (process,)).fetchall()
        connection.execute("DELETE FROM members WHERE process = ?", (process,))
        connection.execute("DELETE FROM processes WHERE id = ?", (process,))
        for (group,) in groups:
            self._rebalance(connection, group)

    # --- rebalances --------------------------------------------------------------------------------------------------

    def _rebalance(self, connection: sqlite3.Connection, group: str) -> None:
        """Ask all members to hand over."""
        asked = connection.execute(
            'UPDATE members SET state = ? WHERE "group" = ? AND state = ?', (HANDING_OVER, group, HOLDING)
        ).rowcount
        if asked:
            query = "UPDATE groups SET fence_s = ? WHERE name = ?"
            connection.execute(query, (monotonic() + self.options.revoke_s, group))
        self._deal(connection, group)

    def _deal(self, connection: sqlite3.Connection, group: str) -> None:
        """Give the partitions out once nobody has any in hand: in ranges, topic by topic, to members in the order in which they came."""
        members = connection.execute(
            'SELECT id, topics, state FROM members WHERE "group" = ? ORDER BY id', (group,)
        ).fetchall()
        if any(state == HANDING_OVER for _, _, state in members):
            return
        connection.execute('DELETE FROM shares WHERE "group" = ?', (group,))
        connection.execute("UPDATE groups SET fence_s = NULL WHERE name = ?", (group,))
        if not members:
            return
        connection.execute("UPDATE numbers SET number = number + 1 WHERE name = 'generation'")
        (generation,) = connection.execute("SELECT number FROM numbers WHERE name = 'generation'").fetchone()
        wanted: dict[int, dict[str, Start]] = {member: json.loads(topics) for member, topics, _ in members}
        found = find_topics(connection, {topic for topics in wanted.values() for topic in topics})
        for topic in sorted(found):
            takers = [member for member, topics in wanted.items() if topic in topics]
            logs = found[topic].logs
            for number, log in enumerate(logs):
                member = takers[number * len(takers) // len(logs)]
                connection.execute("INSERT INTO shares VALUES (?, ?, ?)", (group, log, member))
                self._begin(connection, group, log, wanted[member][topic])
        query = 'UPDATE members SET state = ?, generation = ? WHERE "group" = ?'
        connection.execute(query, (HOLDING, generation, group))

    @staticmethod
    def _begin(connection: sqlite3.Connection, group: str, log: int, start: Start) -> None:
        """Fix where a group begins to read a log; that holds once."""
        query = 'SELECT 1 FROM offsets WHERE "group" = ? AND log = ?'
        if connection.execute(query, (group, log)).fetchone() is None:
            (end,) = connection.execute("SELECT next_offset FROM logs WHERE id = ?", (log,)).fetchone()
            begin = first_kept(connection, log, end) if start == "earliest" else end
            connection.execute("INSERT INTO offsets VALUES (?, ?, ?)", (group, log, begin))
