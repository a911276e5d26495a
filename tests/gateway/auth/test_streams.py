"""Event streams: read by who has the scope of the topic, for as long as it is known who they are."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from fissile import Environment, Ids
from fissile.testing import ManualClock, user
from tests.gateway.auth.issuer import rsa, token, trusting
from tests.gateway.serving import serving, streaming
from tests.identity.modules import Announce, billing, orders

PATH = "/api/orders/topics/announced"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stream_is_for_who_has_its_scope(tmp_path: Path, method: str) -> None:
    async with serving(orders, billing, **trusting(tmp_path, rsa())) as running:
        now = time.time()
        for credential, status in (
            (None, 401),
            (token(now, scope="orders:read"), 403),
            ("nonsense", 401),
            (token(now, scope="orders:watch"), 200),
        ):
            headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
            async with streaming(running, PATH, method, b"", **headers) as stream:
                assert stream.status == status
        async with streaming(running, "/api/billing/topics/noted", method) as stream:
            assert stream.status == 200


async def test_who_reads_a_stream_gets_its_events(tmp_path: Path) -> None:
    async with serving(orders, billing, **trusting(tmp_path, rsa())) as running:
        bearer = f"Bearer {token(time.time(), scope='orders:watch')}"
        async with streaming(running, PATH, authorization=bearer) as stream:
            assert (await stream.frame()) is not None
            await running.app.bus.acting_as(user("somebody")).execute(Announce("k"))
            frame = await stream.frame()
            assert frame is not None
            assert (frame.event, frame.data) == ("announced", {"key": "k"})


async def test_a_stream_ends_with_the_token_of_who_reads_it(tmp_path: Path) -> None:
    clock = ManualClock()
    now = clock.now().timestamp()
    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with serving(orders, billing, environment=environment, **trusting(tmp_path, rsa())) as running:
        short, long = (f"Bearer {token(now, scope='orders:watch', exp=now + life_s)}" for life_s in (60, 600))
        async with (
            streaming(running, PATH, authorization=long) as other,
            streaming(running, PATH, authorization=short) as stream,
            streaming(running, "/api/billing/topics/noted") as anonymous,
        ):
            for opened in (other, stream, anonymous):
                assert (await opened.frame()) is not None
            clock.advance(89)
            await running.app.bus.execute(Announce("before"))
            assert await stream.frame() is not None
            clock.advance(1)  # the clocks of the issuer and of the gateway may differ by 30 s
            assert await stream.frame() is None
            assert (await other.frame()) is not None
            await running.app.bus.execute(Announce("after"))
            frame = await other.frame()
            assert frame is not None
            assert frame.data == {"key": "after"}
            assert (await anonymous.frame()) is not None  # billing noted what was announced
