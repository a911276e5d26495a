"""The processes of the placement `split`: what they print, whom they meet, and what they are made of."""

from __future__ import annotations

import os
from typing import Any

import anyio
import attrs
import pytest

from fissile import Settings
from fissile.testing import PLACEMENTS, Placement, placed
from tests.placements.chatty import Chat, ChattySettings, WhoAreYou, chatty, named

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
SETTINGS = Settings(partitions=2, reply_partitions=2, commit_interval_s=0.05)


def settings_for(backend: Any) -> Settings:
    return attrs.evolve(SETTINGS, backend=backend)


async def test_what_a_module_prints_fills_no_pipe_and_goes_where_the_log_goes(
    embedded_kafka: str, anyio_backend: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    broker = f"kafka://{embedded_kafka}"
    async with placed("split", [chatty], broker=broker, settings=settings_for(anyio_backend)) as bus:
        with anyio.fail_after(20):
            await bus.execute(Chat(200_000))
    assert "x" * 200_000 in capfd.readouterr().err


async def test_two_splits_on_one_broker_do_not_meet(embedded_kafka: str, anyio_backend: Any) -> None:
    broker, settings = f"kafka://{embedded_kafka}", settings_for(anyio_backend)
    async with (
        placed("split", [chatty], broker=broker, settings=settings) as one,
        placed("split", [chatty], broker=broker, settings=settings) as other,
    ):
        answered = [{(await bus.ask(WhoAreYou())).process for _ in range(8)} for bus in (one, other)]
    assert [len(processes) for processes in answered] == [1, 1]
    assert answered[0] != answered[1]


@pytest.mark.parametrize("placement", PLACEMENTS)
async def test_overrides_that_a_function_makes_reach_the_modules_in_every_placement(
    placement: Placement, embedded_kafka: str, anyio_backend: Any
) -> None:
    broker, settings = f"kafka://{embedded_kafka}", settings_for(anyio_backend)
    async with placed(placement, [chatty], broker=broker, settings=settings, overrides=named) as bus:
        told = await bus.ask(WhoAreYou())
    assert told.name == "somebody"
    assert (told.process == os.getpid()) is (placement != "split")


async def test_overrides_that_another_process_cannot_make_are_refused(anyio_backend: Any) -> None:
    for overrides in ({ChattySettings: ChattySettings("x")}, lambda: named()):
        with pytest.raises(ValueError, match="a function that returns them"):
            async with placed("split", [chatty], broker="kafka://127.0.0.1:1", overrides=overrides):
                pass
