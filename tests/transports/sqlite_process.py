"""One process on a log in a file, for tests that kill or stop it: `python -m tests.transports.sqlite_process MODE FILE`.

It writes one JSON value a line to stdout, as it happens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fissile import Unavailable
from fissile._clock import SystemClock
from fissile.abc import Assigned, Outgoing, Revoked, TopicSpec
from fissile.transports._sqlite_options import Options
from fissile.transports.sqlite import SqliteTransport

TOPIC = TopicSpec("t", 4, 86_400.0)
SESSION_S = 1.0


def client(path: Path, **options: Any) -> SqliteTransport:
    """A client of the log, with quick heartbeats."""
    quick = {"heartbeat_s": 0.1, "session_s": SESSION_S, "revoke_s": 1.0, **options}
    return SqliteTransport(Options(path, **quick), SystemClock())


def tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def append(path: Path, name: str) -> None:
    """Store numbered records for ever, many at a time, and tell of each that is stored: key, number, partition, offset."""
    async with client(path) as transport, anyio.create_task_group() as tasks:
        await transport.ensure([TOPIC])

        async def one_key(key: str) -> None:
            number = 0
            while True:
                record = Outgoing("t", key.encode(), f"{key} {number}".encode(), ())
                ((partition, offset),) = await transport.append([record])
                tell([key, number, partition, offset])
                number += 1

        for number in range(16):
            tasks.start_soon(one_key, f"{name}{number}")


async def follow(path: Path, session_s: str = f"{SESSION_S}") -> None:
    """Be a member of the group `g`, and tell of everything; a line of stdin is a generation for which to commit where it is."""
    async with client(path, session_s=float(session_s)) as transport:
        await transport.ensure([TOPIC])
        async with transport.join("g", {"t": "earliest"}) as member, anyio.create_task_group() as tasks:
            offsets: dict[tuple[str, int], int] = {}

            async def commit() -> None:
                while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                    tell({"committed": await member.commit(int(line), dict(offsets) or {("t", 0): 0})})

            tasks.start_soon(commit)
            while True:
                news = await member.receive()
                if isinstance(news, Assigned):
                    offsets.clear()
                    offsets.update(news.positions)
                    tell({"generation": news.generation, "assigned": sorted(number for _, number in news.positions)})
                elif isinstance(news, Revoked):
                    tell({"revoked": news.generation})
                else:
                    for record in news:
                        offsets[record.topic, record.partition] = record.offset + 1
                        tell({"record": record.value.decode(), "partition": record.partition})


async def fill(path: Path) -> None:
    """Store records until the disk is full, and once more when there is room; `filler` beside the file is what is removed."""
    stored: list[str] = []

    async def store(transport: SqliteTransport, value: str) -> bool:
        try:
            await transport.append([Outgoing("t", b"k", value.encode(), ())])
        except Unavailable as error:
            tell({"refused": str(error), "check": transport.check()})
            return False
        stored.append(value)
        return True

    async with client(path) as transport:
        await transport.ensure([TOPIC])
        filler = path.with_name("filler")
        filler.write_bytes(b"x" * 1_000_000)
        number = 0
        while await store(transport, f"{number} ".ljust(20_000, "x")):
            number += 1
        assert not await store(transport, "still full".ljust(200_000, "x"))
        filler.unlink()
        assert await store(transport, "there is room")
        tell({"check": transport.check()})
    async with client(path) as transport, transport.read([("t", each) for each in range(4)], "earliest") as reader:
        found: list[str] = []
        while len(found) < len(stored):
            found += [record.value.decode() for record in await reader.receive()]
    tell({"kept": found == stored, "count": len(found)})


def main() -> None:
    mode, path, *rest = sys.argv[1:]
    functions: dict[str, Any] = {"append": append, "follow": follow, "fill": fill}
    anyio.run(functions[mode], Path(path), *rest)


if __name__ == "__main__":
    main()
