"""A process that hosts modules behind a gateway in another one: `python -m tests.gateway.back FOLDER PACKAGE.MODULE …`.

It says `ready`, and ends when its standard input does. The code executor, where it is one of them, runs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import anyio
import anyio.to_thread

from fissile import App, Module, Settings
from modules.code_executor.sandbox import Sandbox
from tests.modules.code_executor.fake_sandbox import FakeSandbox

KEYS = ("a key for tests, of 32 characters",)


def shared(folder: Path) -> Settings:
    """Return the settings of the processes that share a folder: their log and their databases are there."""
    return Settings(
        bus=f"sqlite:///{folder / 'log.sqlite3'}",
        database=f"sqlite:///{folder / 'data'}",
        database_migrate=True,
        identity_keys=KEYS,
    )


async def main(folder: Path, places: list[str]) -> None:
    """Host modules until nobody listens any more."""
    modules: list[Module] = [import_module(place).module for place in places]
    names = {module.contract.name for module in modules}
    overrides = {Sandbox: FakeSandbox()} if "code-executor" in names else None
    async with App(modules, settings=shared(folder), name="testing", process="back", overrides=overrides):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2:])
