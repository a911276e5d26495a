"""The rows of a split process: its start to ready, as the first of its group, and what it takes of memory."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks._brokers import Fresh, make_topics
from benchmarks._peers import peers
from benchmarks._process import Server, serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, by_turns, python
from benchmarks.floors.kafka_log import PARTITIONS

READY = re.compile(r'("event":"ready")')
FLOOR_READY = re.compile(r"(has partitions)")

START = Spec(
    "split process, start to ready, first of its group", "import quart, hypercorn.asyncio; join one group", "ms", 1.5
)
MEMORY_MIB = 60.0
REQUESTS = 10_000
MEMORY = Spec("split process with one small module, resident", f"{MEMORY_MIB:g} MiB", "MiB", 1.0)
MEMORY_LATER = Spec(f"{MEMORY.what}, after {REQUESTS} requests", f"{MEMORY_MIB:g} MiB", "MiB")
SETTLE_S = 2.0


def rows(fresh: Fresh, rounds: int) -> list[Row]:
    """Measure them on one broker."""
    prefix = f"b{uuid.uuid4().hex[:8]}."
    try:
        with fresh() as servers:
            return [_start(servers, prefix, max(3, rounds)), *_memory(servers, prefix)]
    except (CannotRun, OSError) as error:
        return [spec.cannot(str(error)) for spec in (START, MEMORY, MEMORY_LATER)]


def _process(servers: str, prefix: str) -> AbstractContextManager[Server]:
    """Run a process of a placement as in production."""
    return serving(
        python("-m", "fissile", "run", "executor", "--placement", "split"),
        ROOT / "benchmarks" / "application",
        READY,
        FISSILE_BUS=f"kafka://{servers}",
        FISSILE_KAFKA_PREFIX=prefix,
    )


def _start(servers: str, prefix: str, rounds: int) -> Row:
    topic = f"{prefix}floor"
    make_topics(servers, {topic: PARTITIONS})

    def ours_ms() -> float:
        # The first round, which does not count, makes the topics; in the others they are there and the group is empty.
        with _process(servers, prefix) as process:
            return process.ready_s * 1e3

    def floor_ms() -> float:
        arguments = python("-m", "benchmarks.floors.kafka_join", servers, topic, topic)
        with serving(arguments, ROOT, FLOOR_READY) as process:
            return process.ready_s * 1e3

    return START.row(by_turns(rounds, ours_ms, floor_ms))


def _memory(servers: str, prefix: str) -> list[Row]:
    with _process(servers, prefix) as process:
        time.sleep(SETTLE_S)
        before = _resident_mib(process.pid)
        caller = python("-m", "benchmarks.kafka_peer", "caller", "asyncio", servers, prefix)
        with peers(caller) as (peer,):
            peer.ask("calls", in_flight=64, count=REQUESTS)
        after = _resident_mib(process.pid)
    return [MEMORY.row([(before, MEMORY_MIB)]), MEMORY_LATER.row([(after, MEMORY_MIB)])]


def _resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise CannotRun("this system does not tell what a process has resident") from None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if found is None:
        raise CannotRun("this system does not tell what a process has resident")
    return int(found[1]) / 1024
