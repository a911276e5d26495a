"""Every attack of the list, in every kind of sandbox that this machine can do: contained, and the host unharmed.

All attacks of a kind run once, several at a time as strangers' programs do; then each is looked at.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import Factory, frozen

from modules.code_executor.sandbox import NoSandbox, Outcome, Program, Result, Sandbox, _probe, _syscalls

from .attack_list import ATTACKS, Attack
from .conftest import KINDS, Host, until

AT_ONCE = 3
NAMES = [attack.name for attack in ATTACKS]


@frozen
class Report:
    """What became of the attacks in one kind of sandbox.

    Attributes:
        results: Of each attack.
        visits: Who came to the services of the host.
        survivors: Processes that outlived their run.
        is_canary_alive: Whether the canary is there.
    """

    results: dict[str, Result] = Factory(dict[str, Result])
    visits: list[str] = Factory(list[str])
    survivors: list[int] = Factory(list[int])
    is_canary_alive: bool = False


_reports: dict[str, Report] = {}


@pytest.fixture(params=[pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: the walls do not know of it."""
    return request.param


@pytest.fixture(params=KINDS)
async def report(
    request: pytest.FixtureRequest, open_sandbox: Callable[..., Awaitable[Sandbox]], host: Host, tmp_path: Path
) -> Report:
    """What became of all attacks in a kind of sandbox, found out once."""
    kind: str = request.param
    if kind not in _reports:
        sandbox = await open_sandbox(kind, at_once=AT_ONCE, waiting=len(ATTACKS))
        _reports[kind] = await _attack(sandbox, host, tmp_path)
    return _reports[kind]


async def _attack(sandbox: Sandbox, host: Host, folder: Path) -> Report:
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)  # what a stranger may not read is to be kept by the sandbox, not by the host
    hidden = folder / "left-behind"
    hidden.write_text(host.secret)
    hidden.chmod(0o644)
    results: dict[str, Result] = {}

    with _services() as (words, visits):
        words |= {"FOLDER": str(folder), "FILE": str(hidden), "CANARY": str(host.canary.pid), "SECRET": host.secret}

        async def run(attack: Attack) -> None:
            source = re.sub("|".join(rf"\b{word}\b" for word in words), lambda found: words[found[0]], attack.source)
            results[attack.name] = await sandbox.run(Program("python", host.program(source), "", attack.limits))

        async with anyio.create_task_group() as tasks:
            for attack in ATTACKS:
                tasks.start_soon(run, attack)
    with suppress(pytest.fail.Exception):
        await until(lambda: not host.survivors(), "no process of a program is left")
    return Report(results, visits, host.survivors(), host.canary.poll() is None)


@contextmanager
def _services() -> Iterator[tuple[dict[str, str], list[str]]]:
    """Services of the host, what programs are to call them, and a list of who has come."""
    visits: list[str] = []
    abstract = "\0fissile-test-" + secrets.token_hex(6)

    def accept(server: socket.socket, name: str) -> None:
        with suppress(OSError):
            while True:
                server.accept()[0].close()
                visits.append(name)

    def receive(server: socket.socket) -> None:
        with suppress(OSError):
            while (data := server.recv(100)) != b"end":
                visits.append(f"UDP {data!r}")

    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", 0))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(abstract)
        local.listen()
        threads = [
            threading.Thread(target=accept, args=(tcp, "TCP")),
            threading.Thread(target=accept, args=(local, "abstract")),
            threading.Thread(target=receive, args=(udp,)),
        ]
        for thread in threads:
            thread.start()
        try:
            words = {
                "ADDRESS": socket.gethostbyname(socket.gethostname()),
                "TCP": str(tcp.getsockname()[1]),
                "UDP": str(udp.getsockname()[1]),
                "ABSTRACT": repr(abstract),
                "ENGINE": repr(os.environ.get("DOCKER_HOST", "").removeprefix("unix://")),
            }
            yield words, visits
        finally:
            for server in (tcp, local):
                server.shutdown(socket.SHUT_RDWR)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"end", ("127.0.0.1", udp.getsockname()[1]))
            for thread in threads:
                thread.join()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
async def test_an_attack_is_contained(report: Report, attack: Attack) -> None:
    result = report.results[attack.name]
    assert result.outcome in attack.outcomes, result
    if result.outcome is Outcome.FINISHED:  # an attack that has failed by a mistake of its own shows nothing
        assert (result.exit_code, result.stderr) == (0, ""), result
    allowed = attack.allowed(result.level)
    assert allowed is None or result.stdout == allowed, result
    assert attack.signal in (None, result.signal), result


@pytest.mark.timeout(300)
async def test_the_host_is_unharmed_by_all_of_them(report: Report) -> None:
    assert report.visits == []
    assert report.survivors == []
    assert report.is_canary_alive
    segments = await anyio.Path("/proc/sysvipc/shm").read_text()
    assert str(0x1234) not in segments.split()


OPENED = {
    "sockets to the kernel and beyond": ("socket",),
    "the memory of other processes": ("process_vm_readv", "process_vm_writev", "kcmp", "ptrace"),
    "mounts and roots": (
        "open_tree",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "mount_setattr",
        "mount",
        "chroot",
    ),
    "namespaces of its own": ("clone3", "setns"),
    "dangerous corners of the kernel": (
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "open_by_handle_at", "name_to_handle_at"),
        *("add_key", "request_key", "keyctl", "personality"),
    ),
    "shared memory and message queues": ("shmget", "msgget", "semget"),
}
"""Calls that some attack must miss in the filter: names that the kernel of the tests has for sure."""


async def test_the_attacks_notice_each_call_that_a_filter_lets_through(
    open_sandbox: Callable[..., Awaitable[Sandbox]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name for calls in OPENED.values() for name in calls}
    monkeypatch.setattr(_syscalls, "_ALLOWED", " ".join([_syscalls._ALLOWED, *names]))
    with pytest.raises(NoSandbox, match="forbidden_calls"):
        await (await open_sandbox("unshare")).probe()
    monkeypatch.setattr(_probe, "_weakness", lambda *_: "")
    sandbox = await open_sandbox("unshare")
    for attack in ATTACKS:
        if attack.name in OPENED:
            said = (await sandbox.run(Program("python", attack.source.replace("CANARY", "99999")))).stdout
            noticed = {line.split()[0] for line in said.splitlines()}
            wanted = {"16", "17"} if attack.name.startswith("sockets") else set(OPENED[attack.name])
            assert wanted <= noticed, said


def test_the_table_for_readers_has_all_attacks_with_verdicts_that_are_accepted() -> None:
    lines = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]
    assert [(int(row[0]), row[1]) for row in rows] == list(enumerate(NAMES, 1))
    for row, attack in zip(rows, ATTACKS, strict=True):
        assert len(row) == 6
        assert set(row[3:]) <= set(attack.outcomes), row
