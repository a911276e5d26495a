"""An application to try the command line on: two modules and a gateway that is small enough for a test.

The gateway stands in for the real one, whose tests are elsewhere: it listens on a port, and what it reads on a connection is the
text of an order. It is found before the installed one, because the folder of an application comes first on the import path.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from textwrap import dedent
from threading import Thread
from time import monotonic
from typing import IO

from tests.cli.zygote import Zygote

PATIENCE_S = 60.0
"""How long a test waits for a condition; machines under load are slow."""

PYPROJECT = """
[tool.fissile]
name = "shop"
modules = ["modules.orders", "modules.billing"]

[tool.fissile.settings.orders]
limit = 7
"""

ORDERS_CONTRACT = '''
from attrs import frozen
from fissile import Command, Contract, DeclaredError, Event, Query, Topic

contract = Contract("orders")


@frozen
class OutOfStock(DeclaredError, status=409):
    sku: str


@frozen
class PlaceOrder(Command[str], raises=(OutOfStock,)):
    """Order something."""

    sku: str
    quantity: int = 1
    tags: tuple[str, ...] = ()
    gift: bool = False


@frozen
class Order:
    sku: str
    quantity: int


@frozen
class GetOrder(Query[Order | None]):
    order_id: str


@frozen
class OrderPlaced(Event):
    sku: str


placed = Topic("orders.placed", OrderPlaced, key=lambda event: event.sku)
'''

ORDERS_SERVICE = """
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from fissile import Bus, Module, ModuleSettings, secret, setting
from attrs import frozen

from .contract import GetOrder, Order, OrderPlaced, OutOfStock, PlaceOrder, contract

module = Module(contract)
logger = logging.getLogger("shop.orders")


@frozen
class OrdersSettings(ModuleSettings):
    limit: int = setting(3, "How many of one thing may be ordered.")
    token: str = secret("", "The key of the warehouse.")


@module.command(PlaceOrder, idempotent=True)
async def place_order(command: PlaceOrder, bus: Bus, settings: OrdersSettings) -> str:
    logger.warning("placing %s", command.sku, extra={"sku": command.sku})
    if command.sku == "none":
        raise OutOfStock(command.sku)
    if command.sku == "broken":
        raise RuntimeError("the shelf fell over")
    if command.sku == "group":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            raise RuntimeError("one of a group")
    if command.sku.startswith("wait:"):
        # Waits until the test has made the file, so that the test knows it is in progress.
        _, begun, done = command.sku.split(":")
        Path(begun).touch()
        while not Path(done).exists():
            await anyio.sleep(0.01)
    if command.sku == "exit":
        os._exit(9)
    if command.sku.startswith("stubborn:"):
        Path(command.sku.removeprefix("stubborn:")).touch()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(3600)
    await bus.publish(OrderPlaced(command.sku))
    return f"{command.quantity} x {command.sku} {list(command.tags)} {command.gift}"


@module.query(GetOrder)
async def get_order(query: GetOrder) -> Order | None:
    return Order("A1", 2) if query.order_id == "1" else None
"""

BILLING_CONTRACT = """
from attrs import frozen
from fissile import Contract, Query

contract = Contract("billing")


@frozen
class GetTotal(Query[int]):
    order_id: str
"""

BILLING_SERVICE = """
from fissile import Bus, Module, Queries, Retry

from modules.orders import contract as orders

from .contract import GetTotal, contract

module = Module(contract)


@module.query(GetTotal)
async def get_total(query: GetTotal, bus: Queries) -> int:
    order = await bus.ask(orders.GetOrder(query.order_id))
    return 0 if order is None else 10 * order.quantity


@module.subscribe(orders.placed, retry=Retry(attempts=9, first_s=0.5))
async def on_placed(event: orders.OrderPlaced, bus: Bus) -> None:
    pass
"""

GATEWAY = '''
"""Listens, and orders what it reads; answers with the reply."""

import anyio
from anyio.abc import SocketStream
from fissile import Bus, Contract, Lifespan, Module, ModuleSettings, setting
from attrs import frozen

from modules.orders.contract import PlaceOrder

contract = Contract("gateway")
module = Module(contract)


@frozen
class GatewaySettings(ModuleSettings):
    port: int = setting(8000, "The port.")


@module.worker
async def listen(lifespan: Lifespan, bus: Bus, settings: GatewaySettings) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=settings.port)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    handling = 0

    async def answer(stream: SocketStream) -> None:
        nonlocal handling
        async with stream:
            sku = (await stream.receive()).decode()
            handling += 1
            try:
                await stream.send((await bus.execute(PlaceOrder(sku))).encode())
            finally:
                handling -= 1

    accepting = anyio.CancelScope()

    async def accept() -> None:
        with accepting:
            await listener.serve(answer)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        lifespan.started(f"http://127.0.0.1:{port}")
        await lifespan.draining()
        while handling:
            await anyio.sleep(0.01)
        accepting.cancel()
'''

VAULT_CONTRACT = """
from attrs import frozen
from fissile import Command, Contract

contract = Contract("vault")


@frozen
class Open(Command[str], requires=("vault:open", "vault:see")):
    scopes: tuple[str, ...] = ()
"""

VAULT_SERVICE = """
from fissile import Caller, Module

from .contract import Open, contract

module = Module(contract)


@module.command(Open, idempotent=True)
async def open_vault(command: Open, caller: Caller) -> str:
    return f"{caller.identity and caller.identity.subject} {command.scopes}"
"""

FILES = {
    "pyproject.toml": PYPROJECT,
    "modules/orders/contract.py": ORDERS_CONTRACT,
    "modules/orders/service.py": ORDERS_SERVICE,
    "modules/billing/contract.py": BILLING_CONTRACT,
    "modules/billing/service.py": BILLING_SERVICE,
    "fissile_gateway/__init__.py": GATEWAY,
}


def write_application(folder: Path, changes: dict[str, str] | None = None) -> Path:
    """Write the example application into a folder, with some files changed or added; return the folder."""
    for name, text in {**FILES, **(changes or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return folder


def with_vault(folder: Path) -> Path:
    """Add a module that requires scopes to an application; return its folder."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    changes = {
        "pyproject.toml": text.replace('"modules.billing"', '"modules.billing", "modules.vault"').replace(
            'billing = ["billing"]', 'billing = ["billing", "vault"]'
        ),
        "modules/vault/contract.py": VAULT_CONTRACT,
        "modules/vault/service.py": VAULT_SERVICE,
    }
    for name, content in changes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


# --- running the command ---------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Return the environment without what a developer's shell may have set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FISSILE_", "NO_COLOR", "FORCE_COLOR", "PYTHON"))
    }
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", **more}


@cache
def zygote() -> Zygote:
    """Return the process that commands are forked from."""
    return Zygote(environment())


def fissile(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it writes never shows a group to somebody who did not ask."""
    if any(name.startswith("PYTHON") for name in more):
        command = [sys.executable, "-m", "fissile", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    else:
        done = zygote().run(arguments, cwd, environment(**more), PATIENCE_S)
    if "-v" not in arguments:
        shown = done.stdout + done.stderr
        assert "ExceptionGroup" not in shown, shown
        assert "Exception Group" not in shown, shown
    return done


class Running:
    """A command that goes on, and what it has written to stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stderr is not None
        self._reader = Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()
        self._seen = 0

    def _read(self, stream: IO[str]) -> None:
        self.lines.extend(stream)

    @property
    def text(self) -> str:
        """All that it has written."""
        return "".join(self.lines)

    def wait_for(self, wanted: str) -> str:
        """Wait for a line that contains a text, after the one that was waited for before; return it."""

        def found() -> bool:
            return any(wanted in line for line in self.lines[self._seen :])

        self.wait_until(found, wanted)
        index = next(number for number, line in enumerate(self.lines) if number >= self._seen and wanted in line)
        self._seen = index + 1
        return self.lines[index]

    def wait_until(self, condition: Callable[[], bool], what: str = "a condition") -> None:
        """Wait until something is so."""
        end = monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None:
                self._reader.join()
                if condition():
                    return
                raise AssertionError(f"it ended with {self.process.returncode} before {what!r}:\n{self.text}")
            if monotonic() > end:
                raise AssertionError(f"no {what!r} in:\n{self.text}")
            self._reader.join(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        """Wait until it ends; return its exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


@contextmanager
def running(*arguments: str, cwd: Path, **more: str) -> Iterator[Running]:
    """Run a command that goes on; end it with the block."""
    command = [sys.executable, "-m", "fissile", *arguments]
    with subprocess.Popen(
        command, cwd=cwd, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        found = Running(process)
        try:
            yield found
            assert "Exception Group" not in found.text, found.text
        finally:
            if process.poll() is None:
                process.kill()
            found.wait_exit()  # the child of a supervisor holds stderr too, and ends with it


def port_of(line: str) -> int:
    """Return the port of the address in a line."""
    return int(line.split("http://127.0.0.1:")[1].split('"')[0].split()[0])


def order(port: int, sku: str) -> socket.socket:
    """Send an order to the gateway; return the connection, on which the answer comes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(sku.encode())
    return connection


def answer(connection: socket.socket) -> str:
    """Return the answer to an order."""
    with connection:
        return connection.recv(65536).decode()
