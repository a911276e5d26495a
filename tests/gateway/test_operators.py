"""What operators see of the gateway: metrics, the access log, traces; and how it drains behind a load balancer."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fissile import Settings
from fissile.testing import ManualClock
from fissile_gateway import GatewaySettings
from tests.gateway.serving import building, guarded, serving, streaming
from tests.gateway.test_life import asgi

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TOKENS = {"jwt_secret": "x" * 32, "jwt_issuer": "https://issuer.test", "jwt_audience": "shop"}
SECRET = "s3cret-s3cret-s3cret-s3cret-s3cret"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Parse metrics, as Prometheus does; a metric that stands there twice is an error."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    names: list[str] = []
    for family in text_string_to_metric_families(text):
        names.append(family.name)
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    assert len(names) == len(set(names))
    return found


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_metrics_count_requests_by_route_and_the_messages_of_modules() -> None:
    async with serving() as running:
        for limit in ("1", "2", "x"):
            await running.client.get("/api/shop/find", params={"limit": limit})
        for path in ("/api/shop/nowhere", "/a", "/b"):
            await running.client.get(path)
        await running.client.post("/api/shop/behave", json={"how": "fail"})
        await running.client.request("PURGE", "/c")
        answer = await running.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        found = samples(answer.text)
        openmetrics = await running.client.get(
            "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")
    find = {"route": "/api/shop/find", "method": "GET"}
    assert value(found, "fissile_http_requests_total", **find, status="200") == 2
    assert value(found, "fissile_http_requests_total", **find, status="400") == 1
    assert value(found, "fissile_http_request_duration_seconds_count", **find) == 3
    assert value(found, "fissile_http_request_duration_seconds_bucket", **find, le="+Inf") == 3
    assert value(found, "fissile_http_request_duration_seconds_sum", **find) > 0
    assert value(found, "fissile_http_requests_total", route="none", method="GET", status="404") == 3
    assert value(found, "fissile_http_requests_total", route="none", method="other", status="404") == 1
    assert value(found, "fissile_http_requests_in_flight") == 1  # this one
    assert value(found, "fissile_messages_total", module="shop", message="shop.find", outcome="handled") == 2
    assert value(found, "fissile_messages_total", module="shop", message="shop.behave", outcome="failed") == 1
    assert value(found, "fissile_ready") == 1
    assert value(found, "fissile_http_connections") >= 1
    assert "python_info" in {name for name, _ in found}


async def test_a_stream_is_counted_while_it_is_open_and_has_no_duration() -> None:
    async with serving() as running:
        async with streaming(running, "/api/shop/topics/placed") as stream:
            await stream.frame()
            assert value(samples((await running.client.get("/metrics")).text), "fissile_http_streams") == 1

        async def ended() -> None:
            while True:
                found = samples((await running.client.get("/metrics")).text)
                if value(found, "fissile_http_streams_ended_total") == 1:
                    assert value(found, "fissile_http_streams") == 0
                    assert not [
                        name
                        for name, labels in found
                        if ("route", "/api/shop/topics/placed") in labels and "bucket" in name
                    ]
                    return

        with anyio.fail_after(10):
            await ended()


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({"host": "0.0.0.0"}, {}, 403),
        ({"host": "example.test"}, {}, 403),
        ({"host": "::1"}, {}, 200),
        ({"metrics_token": SECRET}, {}, 401),
        ({"metrics_token": SECRET}, {"authorization": "Bearer wrong"}, 401),
        ({"metrics_token": SECRET}, {"authorization": f"Basic {SECRET}"}, 401),
        ({"metrics_token": SECRET, "host": "0.0.0.0"}, {"authorization": f"bearer {SECRET}"}, 200),
        ({"metrics_token": SECRET, **TOKENS}, {"authorization": f"Bearer {SECRET}"}, 200),
    ],
)
async def test_metrics_are_open_on_the_own_machine_and_want_a_token_elsewhere(
    settings: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async with building(**settings) as (gateway, _), asgi(gateway) as client:
        answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == status
    assert ("fissile_ready" in answer.text) == (status == 200)


def test_the_token_of_metrics_is_never_shown() -> None:
    assert SECRET not in repr(GatewaySettings(metrics_token=SECRET))


def test_a_token_of_metrics_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics_token has fewer than 32 characters"):
        GatewaySettings(metrics_token=SECRET[:31])


async def test_who_guesses_the_token_of_metrics_is_slowed_down_and_who_has_it_is_not() -> None:
    async with guarded(ManualClock(), gateway={"metrics_token": SECRET}, rate_limit_failures="5/minute") as here:

        async def ask(**headers: str) -> int:
            return (await here.client.get("/metrics", headers=headers)).status_code

        assert [await ask() for _ in range(20)] == [401] * 20  # who sends none does not guess
        assert [await ask(authorization=f"Bearer {number}") for number in range(7)] == [401] * 5 + [429] * 2
        assert await ask(authorization=f"Bearer {SECRET}") == 200


# --- the access log --------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__ for record in caplog.records if record.name == "fissile.gateway.access"]


async def test_the_access_log_tells_the_trace_the_client_and_the_size_and_no_query(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with serving() as running:
        answer = await running.client.get(
            "/api/shop/find", params={"text": "token-in-the-query"}, headers={"traceparent": PARENT, "cookie": "c00kie"}
        )
        await running.client.get("/no%0Awhere")
        await running.client.get("/livez", headers={"traceparent": "wrong"})
    first, second, third = told(caplog)
    assert (first["route"], first["client"], first["bytes"]) == ("/api/shop/find", "127.0.0.1", len(answer.content))
    assert first["trace_id"] == TRACE_ID
    assert not [line for line in (first, second, third) if "token-in-the-query" in str(line) or "c00kie" in str(line)]
    assert "route" not in second
    assert "subject" not in first
    assert second["path"] == "/no\\nwhere"
    assert len({first["trace_id"], second["trace_id"], third["trace_id"]}) == 3


async def test_the_access_log_can_be_off_and_can_tell_a_share_and_errors_always(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with building(access_log=False) as (gateway, _), asgi(gateway) as client:
        await client.get("/livez")
        await client.get("/nowhere")
    assert told(caplog) == []
    async with building(access_log_share=0.0) as (gateway, _), asgi(gateway) as client:
        await client.get("/livez")
        await client.get("/nowhere")
    assert [line["status"] for line in told(caplog)] == [404]


async def test_a_clients_trace_goes_on_in_the_module_unless_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    for accepts in (True, False):
        async with serving(accept_traces=accepts) as running:
            caplog.clear()
            with caplog.at_level(logging.ERROR, "fissile.handler"):
                await running.client.post("/api/shop/behave", json={"how": "fail"}, headers={"traceparent": PARENT})
            (record,) = [record for record in caplog.records if record.name == "fissile.handler"]
            assert (record.__dict__["trace_id"] == TRACE_ID) == accepts
            assert len(record.__dict__["span_id"]) == 16


async def test_of_two_traceparents_none_counts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with serving() as running:
        await running.client.get("/livez", headers=[("traceparent", PARENT), ("traceparent", PARENT)])
    assert told(caplog)[0]["trace_id"] != TRACE_ID


# --- the drain -------------------------------------------------------------------------------------------------------


async def test_before_it_drains_it_says_so_and_still_takes_every_request() -> None:
    from fissile import Environment
    from fissile.testing import ManualClock

    clock = ManualClock()
    async with serving(settings=Settings(drain_delay_s=30.0), environment=Environment(clock=clock)) as running:
        async with streaming(running, "/api/shop/topics/placed") as stream:
            await stream.frame()
            statuses: set[int] = set()
            enough = anyio.Event()

            async def keep_sending() -> None:
                for number in range(20):
                    # Half of them on a connection of their own: none may be refused.
                    if number % 2:
                        async with httpx.AsyncClient(base_url=running.url, trust_env=False, verify=False) as other:
                            statuses.add((await other.get("/api/shop/find")).status_code)
                    else:
                        statuses.add((await running.client.get("/api/shop/find")).status_code)
                enough.set()

            with anyio.fail_after(20):
                running.stop.set()
                while (await running.client.get("/readyz")).status_code != 503:
                    pass
                assert (await running.client.get("/livez")).status_code == 200
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(keep_sending)
                    await enough.wait()
                assert statuses == {200}
                assert not running.ended.is_set()
                clock.advance(31.0)
                assert await stream.frame() is None  # then streams end
                await running.ended.wait()
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient(base_url=running.url, trust_env=False).get("/livez")
