from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
from httpx import Response

from fissile import Environment, Settings
from fissile.testing import ManualClock
from tests.gateway import archive, library
from tests.gateway.library import Desk, two_principals
from tests.gateway.serving import serving

BORROW, SHELVE, DUST, ENTER = (
    "/api/library/borrow",
    "/api/library/shelve",
    "/api/library/dust",
    "/api/archive/enter",
)


async def post(
    client: httpx.AsyncClient, path: str, body: dict[str, object], key: str | None = '"k1"', **fields: str
) -> Response:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if key is not None:
        headers["idempotency-key"] = key
    return await client.post(path, json=body, headers=headers)


async def test_a_repeat_gets_the_first_answer_again_and_is_marked() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        first = await post(running.client, BORROW, {"book": "emma"})
        again = await post(running.client, BORROW, {"book": "emma"})
        other = await post(running.client, BORROW, {"book": "emma"}, '"k2"')
    assert (first.status_code, first.json()) == (200, "emma 1")
    assert "idempotency-replayed" not in first.headers
    assert (again.status_code, again.content, again.headers["content-type"]) == (200, first.content, "application/json")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert other.json() == "emma 2"
    assert desk.handled == ["emma", "emma"]


async def test_an_error_of_the_contract_is_an_answer_too() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        first = await post(running.client, BORROW, {"book": "gone"})
        again = await post(running.client, BORROW, {"book": "gone"})
    assert (first.status_code, again.status_code) == (410, 410)
    assert again.content == first.content
    assert again.headers["content-type"] == "application/problem+json"
    assert again.headers["idempotency-replayed"] == "true"
    assert desk.handled == ["gone"]


async def test_a_command_that_failed_is_done_when_it_comes_again() -> None:
    desk = Desk(is_broken=True)
    async with serving(library.module, overrides={Desk: desk}) as running:
        first = await post(running.client, BORROW, {"book": "emma"})
        desk.is_broken = False
        again = await post(running.client, BORROW, {"book": "emma"})
    assert (first.status_code, again.status_code) == (500, 200)
    assert "idempotency-replayed" not in again.headers


async def test_a_key_that_comes_with_another_content_is_refused() -> None:
    async with serving(library.module) as running:
        await post(running.client, BORROW, {"book": "emma"})
        answer = await post(running.client, BORROW, {"book": "persuasion"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"


async def test_a_content_that_is_only_written_differently_is_the_same() -> None:
    async with serving(library.module) as running:
        first = await running.client.post(
            SHELVE,
            content=b'{"book":"a","where":"b"}',
            headers={"idempotency-key": '"k"', "content-type": "application/json"},
        )
        again = await running.client.post(
            SHELVE,
            content=b'{ "where": "b", "book": "a" }',
            headers={"idempotency-key": '"k"', "content-type": "application/json"},
        )
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_command_that_needs_a_key_is_refused_without_one() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        answer = await post(running.client, BORROW, {"book": "emma"}, None)
        assert (await post(running.client, SHELVE, {"book": "emma"}, None)).status_code == 200
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/idempotency-key-missing"
    assert desk.handled == ["emma"]


@pytest.mark.parametrize(
    "key",
    ["k1", "'k1'", '"k1', '""', f'"{"x" * 256}"', '"k1", "k2"', '"k\\1"', "1", ":azE=:", '("k1")', '"k1" x', '"é"'],
)
async def test_a_malformed_key_is_refused(key: str) -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        answer = await running.client.post(
            SHELVE, json={"book": "emma"}, headers=[(b"idempotency-key", key.encode("latin-1"))]
        )
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/idempotency-key-malformed"
    assert desk.handled == []


async def test_a_key_without_quotes_is_refused_with_how_to_write_it() -> None:
    async with serving(library.module) as running:
        answer = await post(running.client, BORROW, {"book": "emma"}, "8e03978e-40d5-43e8-bc93-6894a57f9324")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert 'write Idempotency-Key: "8e03978e-' in answer.json()["detail"]


@pytest.mark.parametrize("key", ['"k1";a', '"k1"; a="x;y";b=1', r'"k\\1"', r'"k\"1"'])
async def test_what_structured_fields_allow_around_a_string_is_taken(key: str) -> None:
    async with serving(library.module) as running:
        assert (await post(running.client, SHELVE, {"book": "emma"}, key)).status_code == 200


async def test_two_keys_in_two_fields_are_malformed() -> None:
    async with serving(library.module) as running:
        headers = [("idempotency-key", '"k1"'), ("idempotency-key", '"k2"')]
        answer = await running.client.post(SHELVE, json={"book": "emma"}, headers=headers)
    assert answer.status_code == 400


async def test_what_does_not_fit_the_contract_uses_no_key() -> None:
    async with serving(library.module) as running:
        assert (await post(running.client, BORROW, {"buch": "emma"})).status_code == 400
        assert (await post(running.client, BORROW, {"book": "emma"})).json() == "emma 1"


async def test_a_repeat_of_what_is_still_running_is_told_to_come_later() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running, anyio.create_task_group() as tasks:
        tasks.start_soon(post, running.client, DUST, {})
        await desk.begun.wait()
        answer = await post(running.client, DUST, {})
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/idempotency-key-in-use"
        assert answer.headers["retry-after"] == "1"
        desk.go_on.set()
    assert desk.handled == ["dust"]


async def test_a_repeat_gets_an_answer_without_a_body_again() -> None:
    desk = Desk()
    desk.go_on.set()
    async with serving(library.module, overrides={Desk: desk}) as running:
        await post(running.client, DUST, {})
        again = await post(running.client, DUST, {})
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (204, b"", "true")
    assert "content-type" not in again.headers


async def test_a_client_that_went_away_may_send_its_command_again() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        with anyio.move_on_after(60) as waiting:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post, running.client, DUST, {})
                await desk.begun.wait()
                waiting.cancel()
        await desk.cancelled.wait()
        desk.go_on.set()
        with anyio.fail_after(10):
            while (answer := await post(running.client, DUST, {})).status_code == 409:
                await anyio.wait_all_tasks_blocked()
    assert answer.status_code == 204
    assert desk.handled == ["dust", "dust"]


async def test_the_same_key_on_another_route_is_another_key() -> None:
    async with serving(library.module) as running:
        assert (await post(running.client, BORROW, {"book": "emma"})).status_code == 200
        assert (await post(running.client, SHELVE, {"book": "emma"})).status_code == 200


async def test_the_same_key_of_somebody_else_is_another_key(tmp_path: Path) -> None:
    desk = Desk()
    file, one, other = two_principals(tmp_path)
    async with serving(library.module, overrides={Desk: desk}, api_keys_file=file) as running:
        for credential in (one, other, one):
            await post(running.client, BORROW, {"book": "emma"}, x_api_key=credential)
        assert (await post(running.client, BORROW, {"book": "persuasion"})).status_code == 200
    assert desk.handled == ["emma", "emma", "persuasion"]


async def test_an_answer_is_kept_for_a_day() -> None:
    clock = ManualClock()
    desk = Desk()
    environment = Environment(clock=clock)
    async with serving(library.module, overrides={Desk: desk}, environment=environment) as running:
        await post(running.client, BORROW, {"book": "emma"})
        clock.advance(86_399)
        assert (await post(running.client, BORROW, {"book": "emma"})).json() == "emma 1"
        clock.advance(2)
        assert (await post(running.client, BORROW, {"book": "emma"})).json() == "emma 2"


async def test_the_answers_used_longest_ago_make_room() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}, idempotency_bytes=1300) as running:
        for key in ('"a"', '"b"', '"a"', '"c"', '"a"', '"b"'):  # there is room for two
            await post(running.client, BORROW, {"book": key}, key)
    assert desk.handled == ['"a"', '"b"', '"c"', '"b"']


# --- a module with a database ----------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database=f"sqlite:///{tmp_path / 'data'}", database_migrate=True)


async def test_after_a_restart_a_module_with_a_database_gives_the_first_outcome(settings: Settings) -> None:
    desk = Desk()
    for _ in range(2):
        async with serving(archive.module, settings=settings, overrides={Desk: desk}) as running:
            assert (await post(running.client, ENTER, {"book": "emma"})).json() == "entry 1"
            assert (await post(running.client, ENTER, {"book": "burnt"}, '"k2"')).status_code == 410
            reused = await post(running.client, ENTER, {"book": "persuasion"})
            assert reused.status_code == 422
            assert reused.json()["type"] == "/problems/idempotency-key-reused"
    assert desk.handled == ["emma", "burnt"]


async def test_on_another_replica_a_module_with_a_database_gives_the_first_outcome(settings: Settings) -> None:
    desk = Desk()
    overrides = {Desk: desk}
    async with (
        serving(archive.module, settings=settings, overrides=overrides) as one,
        serving(archive.module, settings=settings, overrides=overrides) as other,
    ):
        first = await post(one.client, ENTER, {"book": "emma"})
        again = await post(other.client, ENTER, {"book": "emma"})
    assert first.content == again.content
    assert desk.handled == ["emma"]
