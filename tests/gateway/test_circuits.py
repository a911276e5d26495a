"""A module that does not answer is left alone for a while."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from fissile import Unavailable
from fissile.testing import ManualClock
from fissile_gateway import ProtectionSettings
from fissile_gateway._breaker import Breaker, BreakerPolicy, Call
from tests.gateway.serving import building, client_at, guarded
from tests.gateway.test_problems import is_problem

BEHAVE = "/api/shop/behave"


async def told(client: httpx.AsyncClient, *what: str) -> list[int]:
    return [(await client.post(BEHAVE, json={"how": how})).status_code for how in what]


async def test_after_failures_in_a_row_a_module_is_not_called_and_others_need_not_wait() -> None:
    clock = ManualClock()
    async with guarded(clock, breaker_failures=3, breaker_open_s=5, breaker_counts_failed=True) as here:
        assert await told(here.client, "fail", "well", "fail", "fail", "well") == [500, 200, 500, 500, 200]
        assert await told(here.client, "fail", "fail", "fail") == [500, 500, 500]
        answer = await here.client.post("/api/shop/order", json={"items": []})
        document = is_problem(answer, 503, "circuit-open")
        assert "'shop'" in document["detail"]
        assert answer.headers["retry-after"] == "5"
        assert here.watch.seen == []
        assert here.gateway.protection.statistics().circuits == {"shop": "open"}
        assert here.gateway.protection.statistics().opened == {"shop": 1}


async def test_later_a_few_calls_try_and_when_they_succeed_all_is_as_before() -> None:
    clock = ManualClock()
    settings: dict[str, Any] = {
        "breaker_failures": 1,
        "breaker_open_s": 5,
        "breaker_trials": 2,
        "breaker_counts_failed": True,
    }
    async with guarded(clock, **settings) as here:
        assert await told(here.client, "fail", "well") == [500, 503]
        clock.advance(5)
        assert await told(here.client, "fail", "well") == [500, 503]  # it is no better
        clock.advance(5)
        assert await told(here.client, "well", "well", "well", "well") == [200] * 4
        assert here.gateway.protection.statistics().circuits == {"shop": "closed"}


async def test_only_a_few_try_at_a_time() -> None:
    clock = ManualClock()
    settings: dict[str, Any] = {
        "breaker_failures": 1,
        "breaker_open_s": 5,
        "breaker_trials": 1,
        "breaker_counts_failed": True,
    }
    async with guarded(clock, **settings) as here, anyio.create_task_group() as tasks:
        await told(here.client, "fail")
        clock.advance(5)
        tasks.start_soon(told, here.client, "hang")
        with anyio.fail_after(5):
            await here.watch.hanging.wait()
        assert await told(here.client, "well") == [503]
        assert here.gateway.protection.statistics().circuits == {"shop": "half-open"}
        here.watch.go_on.set()
    assert here.gateway.protection.statistics().circuits == {"shop": "closed"}


async def test_a_module_that_cannot_be_reached_counts() -> None:
    class Cut:
        """A bus whose network is gone."""

        def __init__(self, bus: Any) -> None:
            self.tap = bus.tap

        async def execute(self, command: Any) -> Any:
            raise Unavailable("the log cannot be reached")

        ask = execute

    settings = ProtectionSettings(breaker_failures=2)
    async with (
        building(protection=settings, clock=ManualClock(), through=Cut) as (gateway, _),
        client_at(gateway, "192.0.2.1") as client,
    ):
        answers = [await client.get("/api/shop/find") for _ in range(3)]
    assert [answer.json()["type"] for answer in answers] == ["/problems/unavailable"] * 2 + ["/problems/circuit-open"]


async def test_a_module_that_is_late_counts() -> None:
    async with guarded(ManualClock(), breaker_failures=2, gateway={"request_timeout_s": 0.05}) as here:
        assert await told(here.client, "hang", "hang", "well") == [504, 504, 503]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/shop/order", {"items": [{"name": "unicorn"}]}, 409),  # a declared error
        ("/api/shop/order", {"items": 1}, 400),
        (BEHAVE, {"how": "fail"}, 500),  # a handler that fails counts only where the settings say so
    ],
)
async def test_what_is_no_sign_of_a_broken_module_does_not_count(path: str, body: dict[str, Any], status: int) -> None:
    async with guarded(ManualClock(), breaker_failures=1) as here:
        for _ in range(3):
            assert (await here.client.post(path, json=body)).status_code == status


async def test_the_probe_tells_of_an_open_circuit_and_is_ready_all_the_same() -> None:
    async with guarded(ManualClock(), breaker_failures=1, breaker_counts_failed=True) as here:
        assert "[+]circuit shop closed\n" in (await here.client.get("/readyz?verbose")).text
        await told(here.client, "fail")
        answer = await here.client.get("/readyz?verbose")
        assert answer.status_code == 200
        assert "[!]circuit shop open, again in 5 s\n" in answer.text


async def test_it_can_be_switched_off() -> None:
    async with guarded(ManualClock(), breaker_failures=0, breaker_counts_failed=True) as here:
        assert await told(here.client, *["fail"] * 30) == [500] * 30


def state(breaker: Breaker) -> str:
    return breaker.state  # a call, so that the type checkers do not take it for what it was


def begun(breaker: Breaker) -> Call:
    call = breaker.begin()
    assert call is not None
    return call


def test_a_share_of_failures_opens_it_too() -> None:
    breaker = Breaker("shop", BreakerPolicy(100, 0.5, 10, 5, 1), ManualClock().monotonic)
    for has_failed in [True, False] * 4:
        begun(breaker).end(has_failed)
    calls = begun(breaker), begun(breaker)
    calls[0].end(False)  # of fewer calls than it looks at, nothing is said
    assert state(breaker) == "closed"
    calls[1].end(True)
    assert state(breaker) == "open"


def test_a_call_that_began_before_it_opened_is_no_trial() -> None:
    clock = ManualClock()
    breaker = Breaker("shop", BreakerPolicy(1, 1, 10, 5, 1), clock.monotonic)
    slow = begun(breaker)
    begun(breaker).end(True)
    clock.advance(5)
    trial = begun(breaker)
    slow.end(False)
    assert state(breaker) == "half-open"
    trial.end(False)
    assert state(breaker) == "closed"


def test_a_call_that_began_before_it_opened_does_not_open_it_again() -> None:
    clock = ManualClock()
    breaker = Breaker("shop", BreakerPolicy(1, 1, 10, 5, 1), clock.monotonic)
    slow = begun(breaker)
    begun(breaker).end(True)
    clock.advance(5)
    begun(breaker).end(False)
    slow.end(True)
    assert state(breaker) == "closed"


async def test_a_trial_that_the_module_is_not_asked_for_says_nothing_of_it() -> None:
    clock = ManualClock()
    async with guarded(
        clock, breaker_failures=1, breaker_open_s=5, breaker_trials=1, breaker_counts_failed=True
    ) as here:
        assert await told(here.client, "fail") == [500]
        clock.advance(5)
        assert (await here.client.post("/api/shop/order", json={"items": 1})).status_code == 400
        assert here.gateway.protection.statistics().circuits == {"shop": "half-open"}
        assert await told(here.client, "well") == [200]
        assert here.gateway.protection.statistics().circuits == {"shop": "closed"}


async def test_metrics_tell_what_was_refused_and_which_circuit_is_open() -> None:
    async with guarded(ManualClock(), breaker_failures=1, breaker_counts_failed=True, rate_limit="2/minute") as here:
        assert await told(here.client, "fail", "well", "well") == [500, 503, 503]
        async with client_at(here.gateway, "192.0.2.2") as other:
            text = (await other.get("/metrics")).text
    assert 'fissile_circuit_open{module="shop"} 1' in text
    assert 'fissile_circuit_openings_total{module="shop"} 1' in text
    assert 'fissile_http_turned_away_total{status="429"} 0' in text
