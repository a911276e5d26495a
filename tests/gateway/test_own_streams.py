"""Event streams of hand-written routes: all that is kept first, until some event, also of topics that are not public."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any, cast

import anyio
import pytest

from fissile import Environment, Ids, Settings
from fissile.testing import ManualClock
from tests.gateway.auth.issuer import rsa, token, trusting
from tests.gateway.serving import Frame, Shop, Stream, serving, streaming
from tests.gateway.watched import Finished, Step, Stepped, Whispered
from tests.gateway.watched import module as jobs

ALL, NOW, SO_FAR = "/jobs/a/all", "/jobs/a/from-now", "/jobs/a/so-far"


def watching(**more: Any) -> AbstractAsyncContextManager[Shop]:
    return serving(jobs, routes="tests.gateway.watched_pages", **more)


async def take_steps(running: Shop, *numbers: int, job: str = "a", size: int = 0) -> None:
    for number in numbers:
        await running.app.bus.publish(Stepped(job, number, "x" * size))


async def finish(running: Shop, job: str = "a") -> None:
    await running.app.bus.publish(Finished(job))


async def read(stream: Stream, count: int) -> list[Frame]:
    """Read events of the topic, passing over what is none."""
    found: list[Frame] = []
    while len(found) < count:
        frame = await stream.frame()
        assert frame is not None
        if frame.event is not None:
            found.append(frame)
    return found


def numbers(frames: list[Frame]) -> list[Any]:
    """Return the numbers of steps; of other events their names."""
    return [frame.data["number"] if frame.event == "stepped" else frame.event for frame in frames]


async def test_a_late_client_gets_what_is_kept_of_its_key_then_what_comes_and_an_end() -> None:
    async with watching() as running:
        await take_steps(running, 0, 1)
        await take_steps(running, 7, job="b")
        async with streaming(running, ALL) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert await stream.frame() == Frame(retry="2000")
            kept = await read(stream, 2)
            await take_steps(running, 2)
            await take_steps(running, 8, job="b")
            come = await read(stream, 1)
            await finish(running)
            await take_steps(running, 3)
            last = await read(stream, 2)
            assert await stream.frame() is None
    assert numbers([*kept, *come, *last]) == [0, 1, 2, "finished", "end"]
    assert last[1].data == {}
    assert last[0].id == last[1].id
    assert len({frame.id for frame in (*kept, *come, *last)}) == 4


async def test_one_that_comes_when_all_is_over_gets_all_of_it_and_the_end() -> None:
    async with watching() as running:
        await take_steps(running, 0, 1)
        await finish(running)
        for _ in range(2):
            async with streaming(running, ALL) as stream:
                assert numbers(await read(stream, 4)) == [0, 1, "finished", "end"]
                assert await stream.frame() is None


async def test_who_has_had_the_last_event_and_connects_again_is_told_not_to() -> None:
    async with watching() as running:
        await take_steps(running, 0)
        await finish(running)
        async with streaming(running, ALL) as stream:
            frames = await read(stream, 3)
        assert frames[-1].id is not None
        async with streaming(running, ALL, Last_Event_ID=frames[-1].id) as again:
            assert again.status == 204
        answer = await running.client.get(f"{NOW}?after={frames[-1].id}")
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("kept_by_the_gateway", [1, 1000])
async def test_who_comes_back_goes_on_where_they_were(kept_by_the_gateway: int) -> None:
    async with watching(stream_queue_events=kept_by_the_gateway) as running:
        await take_steps(running, 0, 1, 2)
        async with streaming(running, ALL) as stream:
            first = (await read(stream, 1))[0]
        await take_steps(running, 3)
        await finish(running)
        assert first.id is not None
        for path, headers in ((ALL, {"Last_Event_ID": first.id}), (f"{ALL}?after={first.id}", {})):
            async with streaming(running, path, **cast("dict[str, Any]", headers)) as again:
                assert numbers(await read(again, 5)) == [1, 2, 3, "finished", "end"]
                assert await again.frame() is None


@pytest.mark.parametrize("last_id", ["nonsense", "00000000-0:0", "00000000-0:0-end-end"])
async def test_a_position_that_is_none_makes_a_stream_from_the_beginning_begin_anew(last_id: str) -> None:
    async with watching() as running:
        await take_steps(running, 0, 1)
        await finish(running)
        async with streaming(running, ALL, Last_Event_ID=last_id) as stream:
            reset, *rest = await read(stream, 5)
            assert await stream.frame() is None
        assert (reset.event, reset.id) == ("reset", "")
        assert numbers(rest) == [0, 1, "finished", "end"]
        assert (await running.client.get(ALL, params={"after": last_id})).status_code == 400 or last_id[0] == "0"


async def test_a_stream_from_now_ends_after_the_last_event_too() -> None:
    async with watching() as running:
        await take_steps(running, 0)
        async with streaming(running, NOW) as stream:
            first = await stream.frame()
            assert first is not None
            assert first.id
            await take_steps(running, 1)
            await finish(running)
            assert numbers(await read(stream, 3)) == [1, "finished", "end"]
            assert await stream.frame() is None


async def test_a_stream_of_what_is_kept_ends_with_it() -> None:
    async with watching() as running:
        async with streaming(running, SO_FAR) as stream:
            (end,) = await read(stream, 1)
            assert end.event == "end"
            assert await stream.frame() is None
        await take_steps(running, 0, 1)
        async with streaming(running, SO_FAR) as stream:
            frames = await read(stream, 3)
            assert numbers(frames) == [0, 1, "end"]
            assert await stream.frame() is None
        await take_steps(running, 2)
        assert frames[0].id is not None
        assert frames[2].id is not None
        async with streaming(running, SO_FAR, Last_Event_ID=frames[0].id) as stream:
            assert numbers(await read(stream, 3)) == [1, 2, "end"]
        async with streaming(running, SO_FAR, Last_Event_ID=frames[2].id) as stream:
            assert stream.status == 204


async def test_a_stream_of_all_keys_has_each_event_once_while_they_come() -> None:
    async with watching() as running, anyio.create_task_group() as tasks:

        async def go_on() -> None:
            for number in range(150, 300):
                await running.app.bus.publish(Stepped(f"job {number % 7}", number))

        for number in range(150):
            await running.app.bus.publish(Stepped(f"job {number % 7}", number))
        async with streaming(running, "/jobs") as stream:
            tasks.start_soon(go_on)
            found = await read(stream, 300)
        assert sorted(numbers(found)) == [*range(300)]
        for key in range(7):
            mine = [frame.data["number"] for frame in found if frame.data["job"] == f"job {key}"]
            assert mine == sorted(mine)


@pytest.mark.parametrize("kept_by_the_gateway", [2, 1000])
async def test_what_comes_while_a_client_still_reads_what_is_kept_is_not_missed(kept_by_the_gateway: int) -> None:
    limits = {"stream_queue_events": kept_by_the_gateway, "stream_queue_bytes": 10_000_000}
    async with watching(settings=Settings(partitions=1), **limits) as running:
        await take_steps(running, *range(80), size=100_000)  # more than the sockets' buffers hold
        async with streaming(running, ALL) as stream:
            first = await read(stream, 1)
            await take_steps(running, *range(80, 90))
            await finish(running)
            rest = await read(stream, 91)
            assert await stream.frame() is None
    assert numbers([*first, *rest]) == [*range(90), "finished", "end"]


async def test_a_client_that_is_too_slow_loses_steps_and_never_the_end() -> None:
    async with (
        watching(stream_queue_events=3, stream_queue_bytes=10_000_000) as running,
        streaming(running, ALL) as stream,
    ):
        await stream.frame()
        await take_steps(running, 0)
        assert numbers(await read(stream, 1)) == [0]  # it has joined the others, or will before the next one
        await take_steps(running, *range(1, 201), size=100_000)
        await finish(running)
        await take_steps(running, *range(300, 310))
        found: list[Any] = []
        while not found or found[-1] != "end":
            found += numbers(await read(stream, 1))
        assert "lost" in found or found[:200] == [*range(1, 201)]
        assert found[-2:] == ["finished", "end"]
        assert await stream.frame() is None


async def test_where_the_log_has_moved_on_a_stream_from_the_beginning_begins_anew() -> None:
    settings = Settings(memory_retention_bytes=30_000, partitions=1)
    async with watching(settings=settings) as running, streaming(running, ALL) as stream:
        await take_steps(running, 0)
        assert numbers(await read(stream, 1)) == [0]
        for _ in range(3):
            await running.app.bus.execute(Step("a", 100, 40, size=3000))  # more than is kept, at once
            await finish(running)
        found: list[Any] = []
        while not found or found[-1] != "end":
            found += numbers(await read(stream, 1))
        assert "reset" in found
        assert found[-2:] == ["finished", "end"]
        assert await stream.frame() is None


async def test_an_idle_stream_says_that_it_is_alive_and_ends_when_the_gateway_drains() -> None:
    async with watching(heartbeat_s=0.05) as running, streaming(running, ALL) as stream:
        await take_steps(running, 0)
        assert numbers(await read(stream, 1)) == [0]
        assert await stream.frame() == Frame(comment="alive")
        running.stop.set()
        while (frame := await stream.frame()) is not None:
            assert frame == Frame(comment="alive")


async def test_streams_of_routes_count_among_all_streams_and_a_head_is_none() -> None:
    async with watching(streams_at_once=1) as running, streaming(running, ALL) as stream:
        await stream.frame()
        assert (await running.client.get(ALL)).status_code == 503
        async with streaming(running, "/api/shop/topics/placed") as other:
            assert other.status == 503
    async with watching() as running:
        answer = await running.client.head(ALL)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_a_topic_that_is_not_public_has_no_stream_but_that_of_the_route_which_looks_first() -> None:
    async with watching() as running:
        assert (await running.client.get("/api/jobs/topics/steps")).status_code == 404
        answer = await running.client.get("/jobs/nobody's/all")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-such-job")
        document = (await running.client.get("/openapi.json")).json()
        told = document["paths"]["/jobs/{job}/all"]["get"]["responses"]
        assert "text/event-stream" in told["200"]["content"]
        assert "404" in told


async def test_what_the_topic_requires_is_looked_at_and_a_stream_ends_with_its_credential(tmp_path: Path) -> None:
    clock = ManualClock()
    now = clock.now().timestamp()
    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with watching(environment=environment, **trusting(tmp_path, rsa())) as running:
        for scope, status in ((None, 401), ("jobs:read", 403), ("jobs:hear", 200)):
            headers = {} if scope is None else {"authorization": f"Bearer {token(now, scope=scope, exp=now + 60)}"}
            async with streaming(running, "/whispers", **cast("dict[str, Any]", headers)) as stream:
                assert stream.status == status
                if status == 200:
                    await stream.frame()
                    await running.app.bus.publish(Whispered("psst"))
                    assert (await read(stream, 1))[0].data == {"text": "psst"}
                    clock.advance(90)
                    assert await stream.frame() is None


async def test_a_route_that_cannot_tell_the_last_event_ends_its_stream_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watching() as running, streaming(running, "/jobs") as other, streaming(running, "/broken") as stream:
        with caplog.at_level(logging.ERROR):
            await take_steps(running, 1, job="aaa")
            await take_steps(running, 2, job="a")
            seen = []
            while (frame := await stream.frame()) is not None:
                seen.append(frame.event)
            assert "end" not in seen
        assert any("cannot tell whether an event is the last one" in record.message for record in caplog.records)
        await take_steps(running, 3)
        assert sorted(numbers(await read(other, 3))) == [1, 2, 3]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere", "is of no module of this application"),
        ("/contradictory", 'write start="earliest"'),
        ("/losses", "its event Lost has a name by which streams tell something else"),
    ],
)
async def test_what_a_route_cannot_have_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture, path: str, words: str
) -> None:
    async with watching() as running:
        assert (await running.client.get(path)).status_code == 500
    assert words in caplog.text
