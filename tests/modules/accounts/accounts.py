"""Runs the module with a clock of the test's own, and passwords that are hashed at little cost."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, evolve
from joserfc import jwt
from joserfc.jwk import KeySet

from fissile import App, Bus, Environment, Settings
from fissile.testing import ManualClock, placed, user
from modules.accounts.contract import GetSigningKeys, Session, SignIn, SignUp
from modules.accounts.service import module
from modules.accounts.settings import AccountsSettings
from tests.runtime.helpers import until

CHEAP = AccountsSettings(argon2_memory_kib=64, argon2_passes=1, care_s=61.25)  # which nobody else sleeps for
GOOD, BETTER = "a longer walk by the sea", "a shorter walk by the lake"


@define(eq=False)
class Running:
    """The module while it runs."""

    bus: Bus
    clock: ManualClock

    def of(self, name: str, *scopes: str) -> Bus:
        """A bus that acts for somebody."""
        return self.bus.acting_as(user(name, *(scopes or ("accounts:self",))))

    async def sign_up(self, name: str = "ada", password: str = GOOD) -> None:
        await self.bus.execute(SignUp(name, password))

    async def sign_in(self, name: str = "ada", password: str = GOOD) -> Session:
        return await self.bus.execute(SignIn(name, password))

    async def claims(self, token: str) -> dict[str, Any]:
        """What a token says, if one of the published keys has signed it."""
        keys = KeySet.import_key_set(await self.keys())
        return dict(jwt.decode(token, keys, ["ES256"]).claims)

    async def keys(self) -> Any:
        return json.loads(await self.bus.ask(GetSigningKeys()))

    async def cared(self, rounds: int = 1) -> None:
        """Wait until the module has looked after its keys and what has expired, so often since its start."""
        await until(lambda: self.clock.pauses.count(CHEAP.care_s) >= rounds)

    async def later(self, seconds: float, rounds: int = 1) -> None:
        """Let time pass, and the module look after its keys and what has expired."""
        before = self.clock.pauses.count(CHEAP.care_s)
        await self.cared()
        self.clock.advance(max(seconds, CHEAP.care_s))
        await self.cared(before + rounds)


def cheap() -> dict[type, object]:
    """Return what a process of its own is given."""
    return {AccountsSettings: CHEAP}


@asynccontextmanager
async def running(
    settings: Settings,
    placement: str = "local",
    clock: ManualClock | None = None,
    *,
    broker: str | None = None,
    **changes: Any,
) -> AsyncGenerator[Running]:
    """Run the module: in one process; through the log, with every message handled twice; in a process and with a clock of its own."""
    clock = clock or ManualClock()
    if placement == "split":
        assert not changes
        async with placed("split", [module], broker=broker, settings=settings, overrides=cheap) as bus:
            yield Running(bus, clock)
        return
    is_loopback = placement == "loopback"
    app = App(
        [module],
        settings=settings,
        environment=Environment(clock=clock),
        overrides={AccountsSettings: evolve(CHEAP, **changes)},
        is_loopback=is_loopback,
        repeats=is_loopback,
        is_dev=True,
    )
    async with app:
        yield Running(app.bus, clock)
