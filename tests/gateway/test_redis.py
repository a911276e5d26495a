"""Replicas of the gateway that count in a Redis of this machine.

Without one these tests are skipped with the reason, unless `FISSILE_REQUIRE` has `redis` in it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import anyio.to_thread
import pytest
import redis

from fissile.testing import ManualClock
from tests.gateway.serving import guarded
from tests.gateway.test_rate_limits import statuses

PATIENCE_S = 30.0
SECRET = "hunter2"


class Store:
    """A Redis with a password, on a port of its own, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"redis://:{SECRET}@127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            ["redis-server", *options, "--requirepass", SECRET], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = monotonic() + PATIENCE_S
        while monotonic() < end:
            with suppress(redis.ConnectionError):
                self.count_keys()
                return
            sleep(0.02)
        pytest.fail("redis-server does not answer")

    def count_keys(self) -> int:
        with redis.Redis(port=self._port, password=SECRET) as client:
            return int(client.dbsize())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    if shutil.which("redis-server") is None:
        if "redis" in os.environ.get("FISSILE_REQUIRE", "").split(","):
            pytest.fail("Redis is required (FISSILE_REQUIRE): there is no redis-server on the path")
        pytest.skip("there is no redis-server on the path")
    found = Store(tmp_path)
    found.start()
    try:
        yield found
    finally:
        found.stop()


async def test_replicas_count_together_in_redis_and_each_for_itself_while_it_is_away(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    shared: dict[str, Any] = {"rate_limit": "4/day", "rate_limit_storage": store.url}
    async with guarded(**shared) as one, guarded(**shared) as other:
        assert await statuses(one.client, 2) + await statuses(other.client, 3) == [200, 200, 200, 200, 429]
        assert await statuses(one.client, 1) == [429]
        store.stop()
        assert await statuses(one.client, 5) == [200, 200, 200, 200, 429]  # what it has not counted itself begins anew
        assert await statuses(other.client, 1) == [200]
    assert SECRET not in caplog.text


async def test_a_redis_that_is_back_is_counted_in_again(store: Store) -> None:
    shared: dict[str, Any] = {"rate_limit": "1000000/day", "rate_limit_storage": store.url}
    clock = ManualClock()
    async with guarded(clock, **shared) as here:
        store.stop()
        assert await statuses(here.client, 1) == [200]
        await anyio.to_thread.run_sync(store.start)
        assert await statuses(here.client, 1) == [200]
        assert store.count_keys() == 0  # it is not asked at once
        clock.advance(60)
        assert await statuses(here.client, 1) == [200]
        assert store.count_keys() > 0
