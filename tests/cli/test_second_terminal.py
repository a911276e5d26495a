"""What other commands of the same user find out about the processes of `fissile dev --split`, and what nobody else does."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from attrs import frozen

from fissile import StartupFailed
from fissile._developers_key import developers_key, path_of_key
from tests.cli.conftest import SPLIT
from tests.cli.example import (
    PATIENCE_S,
    PYPROJECT,
    Running,
    environment,
    fissile,
    running,
    with_vault,
    write_application,
)

KEY_FILES = "data/dev-*.identity-key"
AS_ALICE = ("call", "vault.open", "--as", "alice", "--scopes", "vault:open,vault:see")


@frozen
class Split:
    """An application that runs split; what a second terminal exports; the first of the ports with metrics; the key."""

    folder: Path
    dev: Running
    settings: dict[str, str]
    metrics_port: int
    key: str


def free_ports(count: int) -> int:
    """Return the first of several free ports that follow each other."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)


def bus_of(dev: Running) -> str:
    found = re.search(r"kafka://127\.0\.0\.1:\d+", dev.text)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def split(embedded_kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """The example application with a module that requires scopes, split, on a broker that it brings."""
    folder = write_application(tmp_path_factory.mktemp("split") / "shop", {"pyproject.toml": PYPROJECT + SPLIT})
    with_vault(folder)
    metrics_port = free_ports(3)
    arguments = ("dev", "--split", "--no-reload", "--port", "0")
    with running(*arguments, cwd=folder, FISSILE_METRICS_PORT=str(metrics_port)) as dev:
        dev.wait_for("Ready in")
        (file,) = folder.glob(KEY_FILES)
        settings = {"FISSILE_BUS": bus_of(dev), "FISSILE_PLACEMENT": "split"}
        yield Split(folder, dev, settings, metrics_port, file.read_text())
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0
    assert list(folder.glob(KEY_FILES)) == [], "it was for what the broker held, which is gone"


def test_the_arguments_of_processes_hold_no_settings(split: Split) -> None:
    commands = [each.read_bytes().decode(errors="replace").split("\0")[:-1] for each in cmdlines()]
    assert not [command for command in commands if any(split.key in argument for argument in command)]
    children = [command for command in commands if "fissile.cli._child" in command]
    assert len(children) >= 3
    assert all(re.fullmatch(r"\d+", command[-1]) for command in children), children


def cmdlines() -> Iterator[Path]:
    for each in Path("/proc").glob("[0-9]*"):
        if (each / "cmdline").exists():
            yield each / "cmdline"


def test_the_key_is_for_nobody_else(split: Split) -> None:
    (file,) = split.folder.glob(KEY_FILES)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(split.key) >= 32
    assert split.key not in split.dev.text


def test_a_second_terminal_checks_and_calls_for_somebody_with_the_key_of_the_first(split: Split) -> None:
    checked = fissile("check", cwd=split.folder, **split.settings)
    assert (checked.returncode, checked.stdout) == (0, "shop: 3 modules, no faults\n"), checked.stderr
    (row,) = [
        line.split()
        for line in fissile("config", cwd=split.folder, **split.settings).stdout.splitlines()
        if "IDENTITY_KEYS" in line
    ]
    (file,) = split.folder.glob(KEY_FILES)
    assert row == ["FISSILE_IDENTITY_KEYS", "********", f"data/{file.name}"]
    called = fissile(*AS_ALICE, cwd=split.folder, **split.settings)
    assert (called.returncode, called.stdout) == (0, '"alice ()"\n'), called.stderr


def test_a_script_finds_the_key_too(split: Split) -> None:
    script = """
import anyio
import fissile
from fissile.testing import user

async def main():
    async with fissile.connect() as bus:
        from modules.vault.contract import Open
        print(await bus.acting_as(user("bob", "vault:open", "vault:see")).execute(Open()))

anyio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=split.folder,
        env=environment(**split.settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "bob ()\n"), done.stderr


def test_a_key_that_is_set_is_used_instead(split: Split) -> None:
    other = {**split.settings, "FISSILE_IDENTITY_KEYS": "another key of thirty-two characters and more"}
    called = fissile(*AS_ALICE, cwd=split.folder, **other)
    assert called.returncode == 1
    assert "vault" in called.stderr


def test_what_is_run_for_others_wants_a_key_of_its_own(split: Split) -> None:
    refused = fissile("run", "billing", cwd=split.folder, **split.settings)
    assert refused.returncode == 3
    assert "FISSILE_IDENTITY_KEYS" in refused.stderr


def test_a_key_that_others_may_read_is_refused(split: Split) -> None:
    (file,) = split.folder.glob(KEY_FILES)
    file.chmod(0o640)
    try:
        refused = fissile("check", cwd=split.folder, **split.settings)
    finally:
        file.chmod(0o600)
    assert refused.returncode == 3
    assert "Others may read the key of `fissile dev --split`" in refused.stderr
    assert split.key not in refused.stderr + refused.stdout


def test_each_process_tells_its_metrics_on_a_port_of_its_own(split: Split) -> None:
    for number, process in enumerate(("gateway", "orders", "billing")):
        url = f"http://127.0.0.1:{split.metrics_port + number}/metrics"
        text = httpx.get(url, trust_env=False, timeout=PATIENCE_S).text
        assert f'process="{process}"' in next(line for line in text.splitlines() if line.startswith("fissile_info{"))
        assert re.search(rf"^  {process} .*  {re.escape(url)}$", split.dev.text, re.MULTILINE)


def test_too_few_ports_for_metrics_are_told(split_shop: Path) -> None:
    done = fissile("dev", "--split", cwd=split_shop, FISSILE_METRICS_PORT="65534")
    assert done.returncode == 3
    assert "each of the 3 processes takes the next one" in done.stderr


def test_on_a_log_in_a_file_the_key_is_the_one_beside_it(split_shop: Path) -> None:
    folder = with_vault(split_shop)
    settings = {"FISSILE_BUS": "sqlite:///log.sqlite3", "FISSILE_PLACEMENT": "split"}
    with running("dev", "--split", "--no-reload", "--port", "0", cwd=folder, **settings) as dev:
        dev.wait_for("Ready in")
        called = fissile(*AS_ALICE, cwd=folder, **settings)
        assert (called.returncode, called.stdout) == (0, '"alice ()"\n'), called.stderr
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_bus_keeps_its_key_and_another_bus_has_another(tmp_path: Path) -> None:
    key = developers_key(tmp_path, "kafka://one:9092")
    assert developers_key(tmp_path, "kafka://one:9092") == key
    assert developers_key(tmp_path, "kafka://two:9092") != key


def test_a_file_that_is_linked_or_open_to_others_is_no_key(tmp_path: Path) -> None:
    bus = "kafka://one:9092"
    developers_key(tmp_path, bus)
    file = path_of_key(tmp_path, bus)
    for mode in (0o640, 0o604, 0o602):
        file.chmod(mode)
        with pytest.raises(StartupFailed, match="Others may read"):
            developers_key(tmp_path, bus)
    file.chmod(0o600)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        developers_key(tmp_path, bus)
