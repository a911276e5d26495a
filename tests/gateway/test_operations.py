from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from fissile import Environment, Settings
from fissile.testing import ManualClock
from fissile_gateway import ProtectionSettings
from tests.gateway import archive, library
from tests.gateway.library import Desk, two_principals
from tests.gateway.serving import building, serving

SHELVE, DUST, BORROW, ENTER = "/api/library/shelve", "/api/library/dust", "/api/library/borrow", "/api/archive/enter"


async def begin(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], *, prefer: str = "respond-async", **fields: str
) -> httpx.Response:
    headers = {"prefer": prefer, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return await client.post(path, json=body, headers=headers)


async def outcome(client: httpx.AsyncClient, answer: httpx.Response) -> Any:
    """Wait for what has become of an operation."""
    with anyio.fail_after(10):
        while (told := (await client.get(answer.headers["location"])).json())["state"] == "running":
            await anyio.wait_all_tasks_blocked()
    return told


async def test_a_client_that_does_not_wait_is_told_where_to_look() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        answer = await begin(running.client, DUST, {})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["cache-control"] == "no-store"
        location = answer.headers["location"]
        assert location.startswith("/api/operations/")
        status = await running.client.get(location)
        assert status.status_code == 200
        assert status.headers["retry-after"] == "1"
        assert status.headers["cache-control"] == "no-store"
        assert status.json() == {"id": location.rpartition("/")[2], "command": "library.dust", "state": "running"}
        desk.go_on.set()
        assert (await outcome(running.client, answer)) == status.json() | {
            "state": "succeeded",
            "status": 204,
            "reply": None,
        }
        assert "retry-after" not in (await running.client.get(location)).headers


async def test_the_outcome_has_the_reply_or_the_problem() -> None:
    async with serving(library.module) as running:
        shelved = await outcome(running.client, await begin(running.client, SHELVE, {"book": "emma"}))
        assert (shelved["state"], shelved["status"], shelved["reply"]) == ("succeeded", 200, 1)
        answer = await begin(running.client, BORROW, {"book": "gone"}, idempotency_key='"k"')
        gone = await outcome(running.client, answer)
        assert (gone["state"], gone["status"], gone["problem"]["error"]) == ("failed", 410, {"book": "gone"})


@pytest.mark.parametrize("prefer", ["wait=5", "return=minimal", "respond-asyncx", "x=respond-async", ""])
async def test_other_preferences_change_nothing(prefer: str) -> None:
    async with serving(library.module) as running:
        answer = await begin(running.client, SHELVE, {"book": "emma"}, prefer=prefer)
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("prefer", ["RESPOND-ASYNC", 'return=minimal, respond-async; x="a,b"', "wait=0, respond-async"])
async def test_the_preference_is_found_among_others(prefer: str) -> None:
    async with serving(library.module) as running:
        answer = await begin(running.client, DUST, {}, prefer=prefer)
        assert answer.status_code == 202
        await running.client.delete(answer.headers["location"])


async def test_a_client_may_wait_for_a_while_first() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        quick = await begin(running.client, SHELVE, {"book": "emma"}, prefer="respond-async, wait=60")
        assert (quick.status_code, quick.json()) == (200, 1)
        slow = await begin(running.client, DUST, {}, prefer="respond-async, wait=0")
        assert slow.status_code == 202
        assert slow.headers["preference-applied"] == "respond-async, wait=0"
        desk.go_on.set()
        assert (await outcome(running.client, slow))["state"] == "succeeded"


async def test_a_client_that_waits_longer_than_a_request_may_take_is_told_where_to_look_in_time() -> None:
    desk = Desk()
    protection = ProtectionSettings(breaker_failures=1)
    async with serving(library.module, overrides={Desk: desk}, protection=protection, request_timeout_s=2.2) as running:
        slow = await begin(running.client, DUST, {}, prefer="respond-async, wait=3600", idempotency_key='"k"')
        assert slow.status_code == 202
        assert slow.headers["preference-applied"] == "respond-async, wait=1"
        again = await begin(running.client, DUST, {}, prefer="respond-async, wait=3", idempotency_key='"k"')
        assert (again.status_code, again.headers["location"]) == (202, slow.headers["location"])
        desk.go_on.set()
        assert (await outcome(running.client, slow))["state"] == "succeeded"
        assert (await begin(running.client, SHELVE, {"book": "emma"}, prefer="")).status_code == 200


async def test_who_waits_for_an_operation_takes_no_place_among_the_requests_in_progress() -> None:
    desk = Desk()
    waited: list[httpx.Response] = []
    async with (
        serving(library.module, overrides={Desk: desk}, requests_at_once=1) as running,
        anyio.create_task_group() as tasks,
    ):

        async def wait() -> None:
            waited.append(await begin(running.client, DUST, {}, prefer="respond-async, wait=20"))

        tasks.start_soon(wait)
        with anyio.fail_after(10):
            await desk.begun.wait()
        assert (await running.client.post(SHELVE, json={"book": "emma"})).status_code == 200
        desk.go_on.set()
    assert waited[0].status_code == 204


async def test_an_operation_that_has_begun_says_nothing_of_whether_its_module_works() -> None:
    desk = Desk()
    clock = ManualClock()
    protection = ProtectionSettings(breaker_failures=1, breaker_trials=1, breaker_open_s=5, breaker_counts_failed=True)
    environment = Environment(clock=clock)
    async with serving(
        library.module, overrides={Desk: desk}, protection=protection, environment=environment
    ) as running:
        desk.is_broken = True
        failed = await running.client.post(BORROW, json={"book": "emma"}, headers={"idempotency-key": '"k"'})
        assert failed.status_code == 500
        assert (await running.client.post(SHELVE, json={"book": "emma"})).status_code == 503
        clock.advance(5)
        answer = await begin(running.client, DUST, {})
        assert answer.status_code == 202
        assert "circuit library half-open" in (await running.client.get("/readyz?verbose")).text
        desk.go_on.set()
        await outcome(running.client, answer)


async def test_an_operation_outlives_the_time_of_requests_and_has_one_of_its_own() -> None:
    desk = Desk()
    async with serving(
        library.module, overrides={Desk: desk}, request_timeout_s=5.0, operation_timeout_s=0.2
    ) as running:
        told = await outcome(running.client, await begin(running.client, DUST, {}))
    assert (told["state"], told["status"], told["problem"]["type"]) == ("failed", 504, "/problems/deadline-exceeded")
    assert desk.cancelled.is_set()


async def test_a_client_can_cancel_its_operation() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        answer = await begin(running.client, DUST, {})
        await desk.begun.wait()
        for _ in range(2):
            cancelled = await running.client.delete(answer.headers["location"])
            assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert desk.cancelled.is_set()
        assert (await outcome(running.client, answer))["state"] == "cancelled"


async def test_what_has_ended_cannot_be_cancelled() -> None:
    async with serving(library.module) as running:
        answer = await begin(running.client, SHELVE, {"book": "emma"})
        await outcome(running.client, answer)
        refused = await running.client.delete(answer.headers["location"])
    assert refused.status_code == 409
    assert refused.json()["type"] == "/problems/operation-ended"


async def test_nobody_is_told_of_the_operation_of_another(tmp_path: Path) -> None:
    desk = Desk()
    file, one, other = two_principals(tmp_path)
    async with serving(library.module, overrides={Desk: desk}, api_keys_file=file) as running:
        running.client.headers["x-api-key"] = one
        answer = await begin(running.client, DUST, {})
        location = answer.headers["location"]
        for stranger in (other, None):
            running.client.headers.pop("x-api-key")
            if stranger is not None:
                running.client.headers["x-api-key"] = stranger
            for method in ("GET", "DELETE"):
                assert (await running.client.request(method, location)).status_code == 404
            running.client.headers["x-api-key"] = one
        assert not desk.cancelled.is_set()
        desk.go_on.set()
        assert (await outcome(running.client, answer))["state"] == "succeeded"


async def test_an_unknown_operation_is_a_404_that_says_what_to_do() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/operations/0123456789abcdef")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/unknown-operation"
    assert "Idempotency-Key" in answer.json()["detail"]


async def test_an_outcome_is_kept_for_an_hour() -> None:
    clock = ManualClock()
    async with serving(library.module, environment=Environment(clock=clock)) as running:
        answer = await begin(running.client, SHELVE, {"book": "emma"})
        await outcome(running.client, answer)
        clock.advance(3599)
        assert (await running.client.get(answer.headers["location"])).status_code == 200
        clock.advance(2)
        assert (await running.client.get(answer.headers["location"])).status_code == 404


async def test_too_many_operations_are_refused() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}, operations_at_once=1) as running:
        first = await begin(running.client, DUST, {})
        second = await begin(running.client, SHELVE, {"book": "emma"}, idempotency_key='"k"')
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        desk.go_on.set()
        await outcome(running.client, first)
        again = await begin(running.client, SHELVE, {"book": "emma"}, idempotency_key='"k"')
        assert again.status_code == 202
    assert desk.handled[:1] == ["dust"]


async def test_what_does_not_fit_the_contract_is_refused_at_once() -> None:
    async with serving(library.module) as running:
        assert (await begin(running.client, SHELVE, {})).status_code == 400


async def test_an_operation_with_a_key_is_one_operation() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        first = await begin(running.client, DUST, {}, idempotency_key='"k"')
        again = await begin(running.client, DUST, {}, idempotency_key='"k"')
        assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
        waiting = await running.client.post(DUST, json={}, headers={"idempotency-key": '"k"'})
        assert (waiting.status_code, waiting.headers["location"]) == (409, first.headers["location"])
        desk.go_on.set()
        await outcome(running.client, first)
        done = await begin(running.client, DUST, {}, idempotency_key='"k"')
        assert (done.status_code, done.headers["idempotency-replayed"]) == (204, "true")
    assert desk.handled == ["dust"]


async def test_an_operation_that_is_begun_several_times_at_once_is_begun_once() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        locations: set[str] = set()

        async def try_it() -> None:
            answer = await begin(running.client, DUST, {}, idempotency_key='"k"')
            assert answer.status_code == 202
            locations.add(answer.headers["location"])

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(try_it)
        assert len(locations) == 1
        desk.go_on.set()
    assert desk.handled == ["dust"]


async def test_a_process_that_drains_lets_operations_finish() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}, finish_s=60) as running:
        await begin(running.client, DUST, {})
        await desk.begun.wait()
        running.stop.set()
        with anyio.fail_after(10):
            while True:
                try:
                    await running.client.get("/livez")
                except httpx.TransportError:
                    break
        assert not running.ended.is_set()
        desk.go_on.set()
        with anyio.fail_after(10):
            await running.ended.wait()
    assert not desk.cancelled.is_set()


async def test_an_operation_that_was_cut_off_is_done_when_its_command_comes_again(tmp_path: Path) -> None:
    desk = Desk()
    settings = Settings(database=f"sqlite:///{tmp_path / 'data'}", database_migrate=True)
    overrides = {Desk: desk}
    async with serving(archive.module, settings=settings, overrides=overrides, finish_s=0.01) as running:
        lost = await begin(running.client, ENTER, {"book": "slow"}, idempotency_key='"k"')
        await desk.begun.wait()
    desk.go_on.set()
    async with serving(archive.module, settings=settings, overrides=overrides) as running:
        assert (await running.client.get(lost.headers["location"])).status_code == 404
        again = await begin(running.client, ENTER, {"book": "slow"}, idempotency_key='"k"')
        assert again.headers["location"] == lost.headers["location"]
        assert (await outcome(running.client, again))["reply"] == "entry 2"
    async with serving(archive.module, settings=settings, overrides=overrides) as running:
        told = await outcome(
            running.client, await begin(running.client, ENTER, {"book": "slow"}, idempotency_key='"k"')
        )
        assert told["reply"] == "entry 2"
    assert desk.handled == ["slow", "slow"]


async def test_a_mounted_gateway_answers_when_the_command_is_done() -> None:
    async with building() as (gateway, _):
        transport = httpx.ASGITransport(app=gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/api/shop/cancel", json={"order_id": "o1"}, headers={"prefer": "respond-async"})
    assert answer.status_code == 204
    assert "preference-applied" not in answer.headers
