from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Settings, Topic
from tests.gateway.serving import Frame, serving, streaming
from tests.gateway.shop import OrderCancelled, OrderPlaced

PLACED = "/api/shop/topics/placed"

contract = Contract("flood")


@frozen
class Risen(Event):
    text: str


@frozen
class Flood(Command[None]):
    """Publish more at once than the log keeps."""


risen = Topic("flood.risen", Risen, key=lambda event: event.text)
flood_module = Module(contract)


@flood_module.command(Flood, idempotent=True)
async def flood(_command: Flood, bus: Bus) -> None:
    for _ in range(50):
        await bus.publish(Risen("x" * 3000))


async def test_events_are_streamed_with_their_position_and_name() -> None:
    async with serving() as running, streaming(running, PLACED) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        first = await stream.frame()
        assert first is not None
        assert (first.retry, first.event, first.data) == ("2000", None, None)
        assert first.id
        await running.app.bus.publish(OrderPlaced("o1", "two\nlines"))
        await running.app.bus.publish(OrderCancelled("o1"))
        placed, cancelled = await stream.frame(), await stream.frame()
        assert placed is not None
        assert cancelled is not None
        assert (placed.event, placed.data) == ("order-placed", {"order_id": "o1", "text": "two\nlines"})
        assert (cancelled.event, cancelled.data) == ("order-cancelled", {"order_id": "o1"})
        assert len({first.id, placed.id, cancelled.id}) == 3


async def test_a_client_that_comes_back_goes_on_where_it_was() -> None:
    async with serving() as running:
        async with streaming(running, PLACED) as stream:
            await stream.frame()
            await running.app.bus.publish(OrderPlaced("o1"))
            seen = await stream.frame()
            assert seen is not None
            assert seen.id is not None
        await running.app.bus.publish(OrderPlaced("o2"))
        async with streaming(running, PLACED, Last_Event_ID=seen.id) as stream:
            await stream.frame()
            missed = await stream.frame()
            assert missed is not None
            assert missed.data["order_id"] == "o2"


async def test_the_id_at_the_beginning_of_a_stream_is_a_position_too() -> None:
    async with serving() as running:
        async with streaming(running, PLACED) as stream:
            first = await stream.frame()
            assert first is not None
            assert first.id is not None
        await running.app.bus.publish(OrderPlaced("o1"))
        async with streaming(running, PLACED, Last_Event_ID=first.id) as stream:
            await stream.frame()
            missed = await stream.frame()
            assert missed is not None
            assert missed.data["order_id"] == "o1"


@pytest.mark.parametrize("position", ["nonsense", "0:999999", "00000000-0:0", "x" * 10_000])
async def test_a_position_that_is_none_of_the_topic_resets_the_stream_which_goes_on_from_now(position: str) -> None:
    async with serving() as running, streaming(running, PLACED, Last_Event_ID=position) as stream:
        reset = await stream.frame()
        assert reset is not None
        assert reset.event == "reset"
        assert reset.data["reason"]
        assert reset.id
        await running.app.bus.publish(OrderPlaced("o1"))
        event = await stream.frame()
        assert event is not None
        assert event.data["order_id"] == "o1"


async def test_a_client_that_is_too_slow_loses_the_oldest_events_and_is_told_how_many_and_how_to_get_them() -> None:
    async with (
        serving(stream_queue_events=5, stream_queue_bytes=10_000_000) as running,
        streaming(running, PLACED) as stream,
    ):
        await stream.frame()
        for number in range(200):  # 20 MB, which the sockets' buffers do not hold
            await running.app.bus.publish(OrderPlaced("o1", f"{number} " + "x" * 100_000))
        await running.app.bus.publish(OrderPlaced("o1", "200 is the last"))
        heard: list[int] = []
        lost, lost_at, before = None, 0, ""
        while not heard or heard[-1] != 200:
            frame = await stream.frame()
            assert frame is not None
            if frame.event == "lost":
                assert lost is None
                lost = frame
                assert (frame.id, frame.data["after"]) == (None, before)
                lost_at = len(heard)
            else:
                assert frame.id is not None
                before = frame.id
                heard.append(int(frame.data["text"].split()[0]))
        assert lost is not None
        assert heard == [*range(lost_at), *range(lost_at + lost.data["count"], 201)]
        assert len(heard) - lost_at == 5
        async with streaming(running, f"{PLACED}?after={lost.data['after']}") as again:
            await again.frame()
            missed = await again.frame()
            assert missed is not None
            assert missed.data["text"].startswith(f"{lost_at} ")


async def test_a_slow_client_does_not_hold_back_another() -> None:
    async with (
        serving(stream_queue_events=5) as running,
        streaming(running, PLACED),
        streaming(running, PLACED) as quick,
    ):
        await quick.frame()
        for number in range(100):
            await running.app.bus.publish(OrderPlaced("o1", f"{number} " + "x" * 100_000))
            frame = await quick.frame()
            assert frame is not None
            assert frame.data["text"].startswith(f"{number} ")


async def test_the_position_of_another_topic_or_of_a_log_that_is_gone_resets_the_stream() -> None:
    async with serving() as running, streaming(running, PLACED) as stream:
        await stream.frame()
        await running.app.bus.publish(OrderPlaced("o1"))
        seen = await stream.frame()
        assert seen is not None
        assert seen.id is not None
    async with serving() as running:  # another log in memory, which has as many events
        for _ in range(5):
            await running.app.bus.publish(OrderPlaced("o1"))
        async with streaming(running, PLACED, Last_Event_ID=seen.id) as stream:
            reset = await stream.frame()
            assert reset is not None
            assert reset.event == "reset"
            assert reset.id is not None
        mark, position = reset.id.split("-")
        for wrong in (f"{mark}-0:0", f"{mark}-{position}.99:0", f"{int(mark, 16) ^ 1:08x}-{position}"):
            async with streaming(running, PLACED, Last_Event_ID=wrong) as stream:
                again = await stream.frame()
                assert again is not None
                assert again.event == "reset"


async def test_a_position_that_the_log_no_longer_has_resets_the_stream() -> None:
    settings = Settings(memory_retention_bytes=50_000)
    async with serving(settings=settings, stream_queue_events=2) as running:
        async with streaming(running, PLACED) as stream:
            first = await stream.frame()
            assert first is not None
            assert first.id is not None
        for number in range(20):
            await running.app.bus.publish(OrderPlaced("o1", f"{number} " + "x" * 10_000))
        async with streaming(running, PLACED, Last_Event_ID=first.id) as stream:
            while (frame := await stream.frame()) is not None and frame.event != "reset":
                assert frame.data is None
            await running.app.bus.publish(OrderPlaced("o1", "after"))
            event = await stream.frame()
            assert event is not None
            assert event.data["text"] == "after"


async def test_all_streams_are_reset_where_the_log_has_moved_on_before_the_gateway_could_read_it() -> None:
    settings = Settings(memory_retention_bytes=20_000)
    async with (
        serving(flood_module, settings=settings) as running,
        streaming(running, "/api/flood/topics/risen") as one,
        streaming(running, f"/api/flood/topics/risen?key={'x' * 3000}") as other,
    ):
        await one.frame()
        await other.frame()
        await running.client.post("/api/flood/flood", json={})
        for stream in (one, other):
            reset = await stream.frame()
            assert reset is not None
            assert reset.event == "reset"
            assert reset.id
        await running.app.bus.publish(Risen("after"))
        event = await one.frame()
        assert event is not None
        assert event.data == {"text": "after"}


@pytest.mark.parametrize("query", ["", "?key=o1"])
async def test_a_client_that_was_away_for_long_gets_what_it_has_missed_and_then_what_comes(query: str) -> None:
    async with serving(stream_queue_events=3) as running:  # the gateway itself keeps the three latest events
        async with streaming(running, PLACED) as stream:
            first = await stream.frame()
            assert first is not None
            assert first.id is not None
        for number in range(20):
            await running.app.bus.publish(OrderPlaced(f"o{number % 2}", str(number)))
        async with streaming(running, PLACED + query, Last_Event_ID=first.id) as stream:
            await stream.frame()
            wanted = [number for number in range(30) if not query or number % 2]
            heard: list[int] = []
            for number in range(20, 30):
                await running.app.bus.publish(OrderPlaced(f"o{number % 2}", str(number)))
            while len(heard) < len(wanted):
                frame = await stream.frame()
                assert frame is not None
                heard.append(int(frame.data["text"]))
    assert [number for number in heard if number % 2] == [number for number in wanted if number % 2]
    assert sorted(heard) == wanted


async def test_a_client_that_connects_again_and_again_misses_nothing_while_events_come() -> None:
    async with serving(stream_queue_events=5) as running, anyio.create_task_group() as tasks:

        async def publish() -> None:
            for number in range(300):
                await running.app.bus.publish(OrderPlaced(f"o{number % 7}", str(number)))
                await anyio.lowlevel.checkpoint()

        heard: dict[str, list[int]] = {}
        last_id = None
        while sum(len(set(numbers)) for numbers in heard.values()) < 300:
            path = PLACED if last_id is None else f"{PLACED}?after={last_id}"
            async with streaming(running, path) as stream:
                for _ in range(11):
                    frame = await stream.frame()
                    assert frame is not None
                    if last_id is None:
                        tasks.start_soon(publish)
                    if frame.event == "lost":  # it is too slow for a queue that small, and gets what it has lost
                        last_id = frame.data["after"]
                        break
                    assert frame.event != "reset"
                    last_id = frame.id or last_id
                    if frame.data is not None:
                        heard.setdefault(frame.data["order_id"], []).append(int(frame.data["text"]))
                        if frame.data["text"] == "299":
                            break
    for key, numbers in heard.items():
        first_times = list(dict.fromkeys(numbers))
        assert first_times == sorted(first_times), key


async def test_a_stream_can_be_of_one_key() -> None:
    async with serving() as running, streaming(running, f"{PLACED}?key=o2") as stream:
        await stream.frame()
        for number in range(5):
            await running.app.bus.publish(OrderPlaced(f"o{number}"))
        event = await stream.frame()
        assert event is not None
        assert event.data["order_id"] == "o2"


async def test_the_id_at_the_beginning_of_a_stream_is_a_position_for_any_key() -> None:
    async with serving() as running:
        async with streaming(running, f"{PLACED}?key=nobody") as stream:
            first = await stream.frame()
            assert first is not None
            assert first.id is not None
        for number in range(5):
            await running.app.bus.publish(OrderPlaced(f"o{number}"))
        for number in range(5):
            async with streaming(running, f"{PLACED}?key=o{number}", Last_Event_ID=first.id) as stream:
                await stream.frame()
                event = await stream.frame()
                assert event is not None
                assert (event.event, event.data["order_id"]) == ("order-placed", f"o{number}")


async def test_an_idle_stream_says_that_it_is_alive() -> None:
    async with serving(heartbeat_s=0.02) as running, streaming(running, PLACED) as stream:
        await stream.frame()
        assert await stream.frame() == Frame(comment="alive")
        assert await stream.frame() == Frame(comment="alive")
        await running.app.bus.publish(OrderPlaced("o1"))
        while (frame := await stream.frame()) == Frame(comment="alive"):
            pass
        assert frame is not None
        assert frame.data["order_id"] == "o1"


async def test_a_stream_outlives_the_timeout_of_requests() -> None:
    async with serving(request_timeout_s=0.05, heartbeat_s=0.02) as running, streaming(running, PLACED) as stream:
        for _ in range(10):
            assert await stream.frame() is not None


async def test_an_open_stream_ends_at_once_when_the_process_drains() -> None:
    with anyio.fail_after(5):
        async with serving(finish_s=60) as running, streaming(running, PLACED) as stream:
            await stream.frame()
            running.stop.set()
            assert await stream.frame() is None


async def test_a_stream_whose_client_does_not_read_does_not_delay_the_drain() -> None:
    with anyio.fail_after(8):
        async with serving(finish_s=60) as running, streaming(running, PLACED) as stream:
            await stream.frame()
            for _ in range(100):
                await running.app.bus.publish(OrderPlaced("o1", "x" * 100_000))
            await anyio.wait_all_tasks_blocked()
            running.stop.set()
            await running.ended.wait()


async def test_a_client_that_leaves_closes_its_stream() -> None:
    async with serving(streams_at_once=1) as running:
        async with streaming(running, PLACED) as stream:
            assert stream.status == 200
            async with streaming(running, PLACED) as other:
                assert other.status == 503
                assert other.headers["retry-after"] == "1"
        with anyio.fail_after(5):
            status = 503
            while status == 503:
                async with streaming(running, PLACED) as another:
                    status = another.status


async def test_streams_do_not_count_as_requests() -> None:
    async with serving(requests_at_once=1) as running, streaming(running, PLACED), streaming(running, PLACED) as stream:
        assert stream.status == 200
        answer = await running.client.get("/api/shop/get-order?order_id=1")
        assert answer.status_code == 200


async def test_a_parameter_that_a_stream_does_not_have_is_a_400() -> None:
    async with serving() as running:
        answer = await running.client.get(f"{PLACED}?keys=o1")
        assert answer.status_code == 400
        assert answer.json()["errors"] == [
            {"path": "$.keys", "message": "there is no such parameter; there are key and after"}
        ]
        answer = await running.client.get(f"{PLACED}?after=17")
        assert answer.json()["errors"] == [{"path": "$.after", "message": "it is not the id of an event"}]
        answer = await running.client.get(f"{PLACED}?key=o1&key=o2")
        assert answer.json()["errors"] == [{"path": "$.key", "message": "the parameter is given 2 times"}]


async def test_the_head_of_a_stream_has_no_end_to_wait_for() -> None:
    async with serving() as running:
        answer = await running.client.head(PLACED)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_an_unknown_topic_is_a_404_that_names_what_is_near() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/shop/topics/placd")
    assert answer.status_code == 404
    assert f"Did you mean {PLACED}?" in answer.json()["detail"]
