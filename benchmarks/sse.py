"""The rows of open event streams: what each costs in memory, and how long a plain request takes beside them.

The server is one process on asyncio (uvloop where it is installed); the clients are other processes. The resident memory is what the operating
system tells of the server before and with the streams; buffers of the kernel are not in it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter, sleep

from attrs import frozen

from benchmarks._process import Server, serving
from benchmarks._rows import ROOT, CannotRun, Row, environment, python
from benchmarks.startup import READY

STREAMS = 10_000
CLIENT_PROCESSES = 4
STREAM_KIB = 40.0
REQUEST_MS = 20.0
EVENTS = 10
"""How many events all streams hear while plain requests are measured."""
WARM_UP = 200
PATH = "/api/feed/topics/told"
SPARE_DESCRIPTORS = 500

WHATS = (
    "memory of an open event stream",
    "plain request beside idle streams, p99",
    "plain request while events go to all streams, p99",
)


@frozen
class Figures:
    """What was measured.

    Attributes:
        alone_ms: The times of plain requests without streams.
        memory_kib: What a stream takes.
        idle_ms: The times of plain requests beside streams that are idle.
        busy_ms: The same while events go to all of them.
        fan_out_ms: How long an event takes to reach all.
    """

    alone_ms: list[float]
    memory_kib: float
    idle_ms: list[float]
    busy_ms: list[float]
    fan_out_ms: list[float]


def rows(rounds: int, streams: int = STREAMS) -> list[Row]:
    """Measure once: figures of thousands of streams hardly differ from round to round.

    Args:
        rounds: Not looked at.
        streams: How many.
    """
    del rounds
    try:
        found = measure(streams)
    except (CannotRun, OSError) as error:
        return [Row(what, "", "ms", why_not=str(error)) for what in WHATS]
    sys.stderr.write(
        f"a plain request without streams: {_spread(found.alone_ms)}\n"
        f"beside {streams} idle ones: {_spread(found.idle_ms)}\n"
        f"while events go to all: {_spread(found.busy_ms)}\n"
        f"an event reaches all in {median(found.fan_out_ms):.0f} ms\n"
    )
    return [
        _row(WHATS[0], "KiB", found.memory_kib, STREAM_KIB),
        _row(WHATS[1], "ms", _p99(found.idle_ms), REQUEST_MS),
        _row(WHATS[2], "ms", _p99(found.busy_ms), REQUEST_MS),
    ]


def _p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def _spread(times: list[float]) -> str:
    return f"p50 {median(times):.2f}, p99 {_p99(times):.2f}, max {max(times):.2f} ms (of {len(times)})"


def _row(what: str, unit: str, value: float, bound: float) -> Row:
    return Row(what, f"the bound, {bound:g} {unit}", unit, value, bound, value / bound, 1.0)


def measure(streams: int) -> Figures:
    """Measure so many streams.

    Raises:
        CannotRun: The limit of open files is too low, or a process failed.
    """
    _raise_limit(streams + SPARE_DESCRIPTORS)
    values = {
        "FISSILE_PORT": "0",
        "FISSILE_BUS": "memory://",
        "FISSILE_BACKEND": "asyncio",
        "FISSILE_CONNECTIONS_AT_ONCE": str(streams + SPARE_DESCRIPTORS),
        "FISSILE_STREAMS_AT_ONCE": str(streams + SPARE_DESCRIPTORS),
        "FISSILE_CONNECTIONS_PER_ADDRESS": "0",  # all of them come from this machine
        "FISSILE_STREAMS_PER_CLIENT": "0",
        "FISSILE_WAIT_S": "30",  # all come at once, which the gateway would take for a flood; it is about what they cost when they are there
        "FISSILE_LOG_LEVEL": "warning",
    }
    with serving(python("-m", "fissile", "run"), ROOT / "benchmarks" / "streams", READY, **values) as server:
        with _clients(server, WARM_UP) as warm:
            for each in warm:
                each.ask("open")
            _requests(server, 100)
        alone = _requests(server, 200)
        sleep(1.0)  # until the server has closed them
        before = _resident_kib(server.pid)
        with _clients(server, streams) as clients:
            for each in clients:
                each.ask("open")
            memory = (_resident_kib(server.pid) - before) / streams
            idle = _requests(server, 200)
            ended = Event()
            busy: list[float] = []
            requests = Thread(target=_requests_until, args=(server, ended, busy))
            requests.start()
            fan_out = [_tell_all(server, clients) for _ in range(EVENTS)]
            ended.set()
            requests.join()
    return Figures(alone, memory, idle, busy, fan_out)


def _tell_all(server: Server, clients: list[Clients]) -> float:
    for each in clients:
        each.tell("hear 1")
    sleep(0.05)
    began = perf_counter()
    _post(server)
    for each in clients:
        each.hear()
    return (perf_counter() - began) * 1e3


def _post(server: Server) -> None:
    connection = server.connect()
    body = json.dumps({"count": 1, "suspends": False})
    connection.request("POST", "/api/feed/tell", body, {"content-type": "application/json"})
    if connection.getresponse().status not in (200, 204):
        raise CannotRun("the command that publishes failed")
    connection.close()


def _requests(server: Server, count: int) -> list[float]:
    connection = server.connect()
    times: list[float] = []
    for _ in range(count):
        began = perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        times.append((perf_counter() - began) * 1e3)
    connection.close()
    return times


def _requests_until(server: Server, ended: Event, times: list[float]) -> None:
    while not ended.is_set():
        times += _requests(server, 10)
        sleep(0.01)


def _resident_kib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise CannotRun("the operating system does not tell the memory of a process")


def _raise_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CannotRun(f"a process may open {hard} files here (ulimit -Hn), and {needed} are needed")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Clients:
    """A process with many clients.

    Args:
        server: What they connect to.
        count: How many.
    """

    def __init__(self, server: Server, count: int) -> None:
        self.process = subprocess.Popen(
            python("-m", "benchmarks.sse_clients", server.host, PATH, str(count)),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        """Say what to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> None:
        """Wait until it is done.

        Raises:
            CannotRun: It failed.
        """
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if not self.process.stdout.readline():
            lines = self.process.stderr.read().strip().splitlines() or ["the clients ended"]
            raise CannotRun(lines[-1][:300])

    def ask(self, line: str) -> None:
        """Say what to do, and wait until it is done."""
        self.tell(line)
        self.hear()


@contextmanager
def _clients(server: Server, count: int) -> Generator[list[Clients]]:
    with ExitStack() as stack:
        made: list[Clients] = []
        for number in range(CLIENT_PROCESSES):
            share = count // CLIENT_PROCESSES + (number < count % CLIENT_PROCESSES)
            each = Clients(server, share)
            stack.callback(each.process.wait)
            stack.callback(each.process.kill)
            made.append(each)
        yield made
