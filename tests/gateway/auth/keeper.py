"""A module that keeps keys and API keys, as tests put them there; and one whose queries tell something else."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import anyio
from attrs import define, field, frozen

from fissile import Contract, Module, Query
from fissile._api_keys import new_key
from tests.gateway.auth.issuer import key_set

contract = Contract("keeper")


@frozen
class Holder:
    subject: str
    scopes: tuple[str, ...]
    expires_at: float | None
    tenant: str | None = None


@frozen
class GetKeys(Query[str], public=False):
    pass


@frozen
class FindKey(Query[Holder | None], public=False):
    sha256: str


@frozen
class CountKeys(Query[int], public=False):
    pass


@frozen
class GetKeysOf(Query[str], public=False):
    issuer: str


@frozen
class FindName(Query[str | None], public=False):
    sha256: str


@define
class Kept:
    """What is kept.

    Attributes:
        document: What is answered of the keys.
        holders: Whose API keys are, by their hashes.
        asked: How often each query was asked.
        is_away: Whether nothing is answered.
        opened: What answers wait for, if a test has put something here.
    """

    document: str = ""
    holders: dict[str, Holder] = field(factory=dict[str, Holder])
    asked: dict[str, int] = field(factory=lambda: {"keys": 0, "key": 0})
    is_away: bool = False
    opened: anyio.Event | None = None

    async def answering(self) -> None:
        if self.opened is not None:
            await self.opened.wait()
        if self.is_away:
            raise RuntimeError("away")

    def publish(self, *keys: Any) -> None:
        self.document = json.dumps(key_set(*keys))

    def add(self, subject: str, *scopes: str, expires_at: float | None = None, tenant: str | None = None) -> str:
        key, digest = new_key("a1")
        self.holders[digest] = Holder(subject, scopes, expires_at, tenant)
        return key

    def remove(self, key: str) -> None:
        del self.holders[sha256(key.encode()).hexdigest()]


def keeper_of(kept: Kept) -> Module:
    """Make the module."""
    module = Module(contract)

    @module.resource
    @asynccontextmanager
    async def what_is_kept() -> AsyncGenerator[Kept]:
        yield kept

    @module.query(GetKeys)
    async def get_keys(query: GetKeys, kept: Kept) -> str:
        kept.asked["keys"] += 1
        await kept.answering()
        return kept.document

    @module.query(FindKey)
    async def find_key(query: FindKey, kept: Kept) -> Holder | None:
        kept.asked["key"] += 1
        await kept.answering()
        return kept.holders.get(query.sha256)

    @module.query(CountKeys)
    async def count_keys(query: CountKeys) -> int:
        return 0

    @module.query(GetKeysOf)
    async def get_keys_of(query: GetKeysOf) -> str:
        return ""

    @module.query(FindName)
    async def find_name(query: FindName) -> str | None:
        return None

    return module
