"""What checks tokens, made when the first one comes: the library for cryptography takes longer to import than the gateway to start."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from attrs import define, field

from fissile_gateway._auth import Proof
from fissile_gateway._auth_bus import Asked
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from fissile import Clock
    from fissile_gateway._auth_jwt import Tokens

_LIBRARY = "fissile_gateway._auth_jwt"


@define(eq=False)
class LateTokens:
    """Checks tokens.

    Args:
        settings: Which are taken.
        clock: The time.
        query: What to ask for the keys, where they are a module's.
    """

    settings: GatewaySettings
    clock: Clock
    query: Asked | None = None
    _made: Tokens | None = field(default=None, init=False)
    _lock: anyio.Lock = field(factory=anyio.Lock, init=False)

    async def prove(self, text: str) -> Proof:
        """Return whose token it is.

        Raises:
            CredentialRefused: It is not valid.
            KeysUnavailable: There are no keys to check it with.
        """
        return await (self._made or await self._make()).prove(text)

    async def _make(self) -> Tokens:
        async with self._lock:
            if self._made is None:
                await anyio.to_thread.run_sync(import_module, _LIBRARY)
                from fissile_gateway._auth_jwt import Tokens

                self._made = Tokens.of(self.settings, self.clock, self.query)
            return self._made
