"""The shop behind its gateway in a process of its own: `python -m tests.gateway.gate GATEWAY PROTECTION`, both settings as JSON.

It writes its URL, and ends on SIGTERM.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from attrs import frozen

import fissile_gateway
from fissile import App
from fissile_gateway import GatewaySettings, ProtectionSettings
from tests.gateway import shop

ROOT = Path(__file__).parents[2]


@frozen
class Gate:
    """A gateway in another process.

    Attributes:
        host: Where it listens.
        port: The port.
        process: The process.
    """

    host: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def resident(self, *, peak: bool = False) -> int:
        """Return how much memory the process has, in bytes; the most that it had since `forget_peak` if told."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB" if peak else r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="utf-8")


@contextmanager
def gate(protection: dict[str, Any] | None = None, **settings: Any) -> Generator[Gate]:
    """Run the gateway in a process of its own."""
    command = [sys.executable, "-m", "tests.gateway.gate", json.dumps(settings), json.dumps(protection or {})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            url = re.match(rb"https?://([\d.]+):(\d+)", process.stdout.readline())
            assert url is not None
            yield Gate(url[1].decode(), int(url[2]), process)
            assert process.poll() is None, "the gateway has ended"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                process.kill()


async def main(gateway: dict[str, Any], protection: dict[str, Any]) -> None:
    overrides: dict[Any, Any] = {
        GatewaySettings: GatewaySettings(port=0, access_log=False, **gateway),
        ProtectionSettings: ProtectionSettings(**protection),
        shop.Watch: shop.Watch(),
    }
    app = App([shop.module, fissile_gateway.module], name="gate", overrides=overrides)

    def tell(announcements: tuple[str, ...]) -> None:
        sys.stdout.write(f"{announcements[0]}\n")
        sys.stdout.flush()

    await app.run(on_ready=tell)


if __name__ == "__main__":
    anyio.run(main, json.loads(sys.argv[1]), json.loads(sys.argv[2]))
