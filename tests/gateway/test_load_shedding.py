"""More requests than can be done: some are done, the others are told at once, and nobody waits for nothing."""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.lowlevel
import httpx
import pytest

from fissile.testing import ManualClock
from fissile_gateway import ProtectionSettings, RouteLimits
from fissile_gateway._admission import Arrivals, Gate, Patience
from fissile_gateway._gatekeeper import Gatekeeper
from tests.gateway.serving import building, guarded, serving
from tests.gateway.test_problems import is_problem

BEHAVE, CANCEL, FIND = "/api/shop/behave", "/api/shop/cancel", "/api/shop/find"


async def hang(client: httpx.AsyncClient) -> None:
    await client.post(BEHAVE, json={"how": "hang"})


@pytest.mark.parametrize(("name", "is_cancel_refused"), [("shop.behave", False), ("shop", True)])
async def test_a_route_and_a_module_can_have_bounds_of_their_own(name: str, *, is_cancel_refused: bool) -> None:
    limits = {name: RouteLimits(requests_at_once=1)}
    async with guarded(route_limits=limits, requests_waiting=0) as here, anyio.create_task_group() as tasks:
        tasks.start_soon(hang, here.client)
        with anyio.fail_after(5):
            await here.watch.hanging.wait()
        answer = await here.client.post(BEHAVE, json={"how": "well"})
        assert f"to {name} are in progress" in is_problem(answer, 503, "overloaded")["detail"]
        assert answer.headers["retry-after"] == "1"
        other = await here.client.post(CANCEL, json={"order_id": "o1"})
        assert other.status_code == (503 if is_cancel_refused else 204)
        here.watch.go_on.set()
    assert here.gateway.protection.statistics().shed == (2 if is_cancel_refused else 1)
    assert here.gateway.requests == 0


async def test_who_waits_for_a_place_gets_it_when_one_is_free() -> None:
    answers: list[int] = []

    async def ask(client: httpx.AsyncClient) -> None:
        answers.append((await client.post(BEHAVE, json={"how": "well"})).status_code)

    async with guarded(wait_s=30, gateway={"requests_at_once": 1}) as here, anyio.create_task_group() as tasks:
        tasks.start_soon(hang, here.client)
        with anyio.fail_after(5):
            await here.watch.hanging.wait()
        tasks.start_soon(ask, here.client)
        with anyio.fail_after(5):
            while not here.gateway.protection.statistics().waiting:
                await anyio.lowlevel.checkpoint()
        here.watch.go_on.set()
    assert answers == [200]


async def test_who_waits_in_vain_is_told_so() -> None:
    async with guarded(wait_s=0.05, gateway={"requests_at_once": 1}) as here, anyio.create_task_group() as tasks:
        tasks.start_soon(hang, here.client)
        with anyio.fail_after(5):
            await here.watch.hanging.wait()
        is_problem(await here.client.post(BEHAVE, json={"how": "well"}), 503, "overloaded")
        assert here.gateway.protection.statistics().waiting == 0
        here.watch.go_on.set()


async def test_a_client_that_leaves_the_line_leaves_no_hole() -> None:
    async with guarded(wait_s=30, gateway={"requests_at_once": 1}) as here, anyio.create_task_group() as tasks:
        tasks.start_soon(hang, here.client)
        with anyio.fail_after(5):
            await here.watch.hanging.wait()
        with anyio.move_on_after(0.05):
            await here.client.post(BEHAVE, json={"how": "well"})
        assert here.gateway.protection.statistics().waiting == 0
        here.watch.go_on.set()
    async with guarded() as here:
        assert (await here.client.get(FIND)).status_code == 200
    assert here.gateway.requests == 0


async def test_a_flood_is_answered_to_the_last_request_and_the_bound_holds() -> None:
    """Many clients, each with a connection of its own, and a bound of two: nobody hangs, and what was refused did not happen."""
    counts: Counter[int] = Counter()

    async def flood(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            for _ in range(10):
                counts[(await client.post("/api/shop/order", json={"items": []})).status_code] += 1

    limits = {"shop": RouteLimits(requests_at_once=2)}
    settings = ProtectionSettings(route_limits=limits, requests_waiting=4)
    async with serving(protection=settings) as running:
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(flood, running.url)
        assert set(counts) <= {200, 503}
        assert counts.total() == 300
        assert counts[200] > 0
        assert len(running.watch.seen) == counts[200]
        assert (await running.client.post("/api/shop/order", json={"items": []})).status_code == 200


async def test_a_connection_that_was_refused_is_kept_and_used_again() -> None:
    limits = {"shop.behave": RouteLimits(requests_at_once=1)}
    settings = ProtectionSettings(route_limits=limits, requests_waiting=0)
    async with serving(protection=settings, keep_alive_s=0.5) as running, anyio.create_task_group() as tasks:
        tasks.start_soon(hang, running.client)
        with anyio.fail_after(5):
            await running.watch.hanging.wait()
        one = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=running.url, limits=one, trust_env=False) as client:
            for _ in range(5):
                answer = await client.post(BEHAVE, json={"how": "well"})
                assert answer.status_code == 503
                assert answer.json()["type"] == "/problems/overloaded"
                assert answer.headers["retry-after"] == "1"
            assert (await client.get("/livez")).status_code == 200
            running.watch.go_on.set()
            with anyio.fail_after(5):
                while (await client.post(BEHAVE, json={"how": "well"})).status_code == 503:
                    pass


# --- what is refused before it is read -------------------------------------------------------------------------------

PLAIN = b"POST /api/shop/behave HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}"
LONG_WAY = {
    "two requests": PLAIN + PLAIN,
    "half a head": PLAIN[:40],
    "half a body": PLAIN[:-1],
    "more than the body": PLAIN + b"G",
    "a chunked body": b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a length in another field": b"POST / HTTP/1.1\r\nX: content-length\r\nContent-Length: 2\r\n\r\n{}",
    "a signed length": b"POST / HTTP/1.1\r\nContent-Length: +2\r\n\r\n{}",
    "a bare LF": b"GET / HTTP/1.1\nHost: test\r\n\r\n",
    "a folded field": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "HEAD, whose answer has no body": b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n",
    "a connection that is to be closed": b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    "an expectation": b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "a WebSocket": b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "a probe": b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n",
    "a probe with a query": b"GET /readyz?verbose HTTP/1.1\r\nHost: test\r\n\r\n",
    "noise": b"\x00\r\n\r\n",
}


@pytest.mark.parametrize("data", LONG_WAY.values(), ids=LONG_WAY)
async def test_only_a_request_whose_end_is_beyond_doubt_is_refused_unread(data: bytes) -> None:
    async with building(requests_at_once=1, protection=ProtectionSettings(requests_waiting=0)) as (gateway, _):
        gateway.protection.requests.running = 1
        assert gateway.gatekeeper.refuse(data, "192.0.2.1") is None
        answer = gateway.gatekeeper.refuse(PLAIN, "192.0.2.1")
        assert answer is not None
        assert answer.startswith(b"HTTP/1.1 503 ")
        gateway.protection.requests.running = 0
        assert gateway.gatekeeper.refuse(PLAIN, "192.0.2.1") is None


async def test_a_batch_that_arrives_together_cannot_overrun_the_bound() -> None:
    limits = {"shop.behave": RouteLimits(requests_at_once=3)}
    async with building(protection=ProtectionSettings(route_limits=limits, requests_waiting=0)) as (gateway, _):
        keeper: Gatekeeper = gateway.gatekeeper
        tickets = [keeper.arrived(PLAIN) for _ in range(50) if keeper.refuse(PLAIN, "192.0.2.1") is None]
        assert len(tickets) == 3
        assert keeper.turned_back == 47
        for ticket in tickets:
            assert ticket is not None
            keeper.forget(ticket)
        assert keeper.refuse(PLAIN, "192.0.2.1") is None


# --- patience --------------------------------------------------------------------------------------------------------


def test_patience_ends_where_bursts_do_not_and_comes_back() -> None:
    clock = ManualClock()
    patience = Patience(0.1, clock.monotonic)
    seen: list[float] = []
    for _ in range(6):
        clock.advance(0.11)
        patience.refused()
        patience.refused()  # in the same tenth of a second, it counts once
        seen.append(round(patience.allowed_s(), 3))
    assert seen == [0.05, 0.025, 0.013, 0.01, 0.01, 0.01] or seen == [0.05, 0.025, 0.012, 0.01, 0.01, 0.01]
    for _ in range(12):
        clock.advance(0.21)
        patience.allowed_s()
    assert patience.allowed_s() == 0.1


def test_requests_that_use_the_processor_are_refused_when_too_much_of_it_is_ahead() -> None:
    processor = 0.0
    clock = ManualClock()
    arrivals = Arrivals(Patience(0.1, clock.monotonic), lambda: processor)
    gates: tuple[Gate, ...] = ()
    for _ in range(30):  # it learns that each takes five milliseconds
        ticket = arrivals.arrived(gates)
        processor += 0.005
        arrivals.started(ticket)
    let_in = 0
    while not arrivals.is_hopeless():
        arrivals.arrived(gates)
        let_in += 1
    assert let_in == 21  # the 21st has a tenth of a second ahead, and the 22nd would have more


def test_a_request_that_is_alone_is_never_late_whatever_else_the_processor_has_done_meanwhile() -> None:
    """As where one event goes to thousands of streams: refusing it would shorten nobody's wait."""
    processor = 0.0
    arrivals = Arrivals(Patience(0.1, ManualClock().monotonic), lambda: processor)
    alone = arrivals.arrived(())
    processor += 1.0
    assert arrivals.started(alone) == 0.0
    first, second = arrivals.arrived(()), arrivals.arrived(())
    processor += 1.0
    arrivals.started(first)
    assert arrivals.started(second) == 1.0


async def test_who_comes_to_a_line_that_does_not_move_is_refused_at_once() -> None:
    clock = ManualClock()
    gate = Gate("", 1, 100, Patience(0.1, clock.monotonic), clock.monotonic)
    assert await gate.enter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.enter)
        with anyio.fail_after(5):
            while not gate.waiting:
                await anyio.lowlevel.checkpoint()
        assert not gate.is_hopeless()
        clock.advance(0.2)
        assert gate.is_hopeless()
        gate.leave()
    assert gate.running == 1
