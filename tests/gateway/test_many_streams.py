"""Many clients of one topic, in small; `python -m benchmarks sse` measures ten thousand."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio

from tests.gateway.serving import Stream, serving, streaming
from tests.gateway.shop import OrderPlaced

PLACED = "/api/shop/topics/placed"
STREAMS = 200


async def test_every_client_of_many_gets_every_event_in_order_and_plain_requests_are_answered_meanwhile() -> None:
    async with serving() as running, AsyncExitStack() as stack:
        streams: list[Stream] = []
        for number in range(STREAMS):
            query = "" if number % 2 else f"?key=o{number % 4}"
            streams.append(await stack.enter_async_context(streaming(running, PLACED + query)))
        for stream in streams:
            await stream.frame()
        heard: list[list[str]] = [[] for _ in streams]

        async def listen(number: int) -> None:
            while len(heard[number]) < (40 if number % 2 else 10):
                frame = await streams[number].frame()
                assert frame is not None
                if frame.comment is not None:  # it is alive
                    continue
                assert frame.event == "order-placed"
                heard[number].append(frame.data["text"])

        async with anyio.create_task_group() as tasks:
            for number in range(STREAMS):
                tasks.start_soon(listen, number)
            for number in range(40):
                await running.app.bus.publish(OrderPlaced(f"o{number % 4}", str(number)))
                answer = await running.client.get("/api/shop/get-order?order_id=1")
                assert answer.status_code == 200, answer.text
    for number, texts in enumerate(heard):
        if number % 2:
            for key in range(4):
                assert [text for text in texts if int(text) % 4 == key] == [str(n) for n in range(key, 40, 4)]
        else:
            assert texts == [str(n) for n in range(number % 4, 40, 4)]


async def test_clients_of_all_topics_share_one_bound() -> None:
    async with serving(streams_at_once=2) as running, streaming(running, PLACED), streaming(running, PLACED):
        assert (await running.client.get(PLACED)).status_code == 503
