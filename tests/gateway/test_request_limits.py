"""What a request may be: its URL, its query, its body, its time; for all routes, and for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import httpx
import pytest
from attrs import frozen

from fissile import Command, Contract, Module
from fissile_gateway import ProtectionSettings, RouteLimits
from tests.gateway.serving import Shop, guarded, serving
from tests.gateway.test_problems import JSON, is_problem

FIND, ORDER, BEHAVE = "/api/shop/find", "/api/shop/order", "/api/shop/behave"

hurried = Contract("hurried")


@frozen
class Wait(Command[None], timeout_s=0.5):
    """Wait for ever."""


@frozen
class Node:
    inner: Node | None = None
    text: str = ""


@frozen
class Nest(Command[None]):
    """Take something nested."""

    nodes: tuple[Node, ...]


waiting = Module(hurried)
deadlines: list[float] = []


@waiting.command(Wait, idempotent=True)
async def wait(command: Wait) -> None:
    deadlines.append(anyio.current_effective_deadline() - anyio.current_time())
    await anyio.sleep_forever()


@waiting.command(Nest, idempotent=True)
async def nest(command: Nest) -> None:
    pass


async def test_a_url_that_is_too_long_is_a_414_on_the_wire_and_in_a_mounted_gateway() -> None:
    async with serving() as running, guarded() as mounted:
        for client in (running.client, mounted.client):
            for path in ("/" + "a" * 9000, f"{FIND}?text={'a' * 9000}"):
                answer = await client.get(path)
                assert answer.status_code == 414
                assert answer.headers["content-type"] == "application/problem+json"
            assert (await client.get(f"{FIND}?text={'a' * 7000}")).status_code == 200


async def test_a_query_with_too_many_parameters_is_a_400() -> None:
    async with guarded(max_query_fields=10) as here:
        assert (await here.client.get(FIND + "?" + "&".join(["tags=a"] * 10))).status_code == 200
        answer = await here.client.get(FIND + "?" + "&".join(["tags=a"] * 11))
        assert "10 parameters" in is_problem(answer, 400, "too-many-parameters")["detail"]


async def test_a_document_that_is_too_deep_is_a_400_and_brackets_in_strings_do_not_count() -> None:
    def nested(levels: int) -> bytes:
        return b'{"nodes":[' + b'{"inner":' * levels + b"null" + b"}" * levels + b"]}"

    path = "/api/hurried/nest"
    async with serving(waiting, protection=ProtectionSettings(max_json_depth=5)) as running:
        assert (await running.client.post(path, content=nested(3), headers=JSON)).status_code == 204
        answer = await running.client.post(path, content=nested(4), headers=JSON)
        assert "at most 5 levels" in is_problem(answer, 400, "invalid-input")["detail"]
        flat = {"nodes": [{"text": "[{" * 50 + '"\\"[['}]}
        assert (await running.client.post(path, json=flat)).status_code == 204
        assert (await running.client.post(path, json={"nodes": [{}] * 50})).status_code == 204


@pytest.mark.parametrize("depth", [1000, 100_000, 400_000])
async def test_a_document_as_deep_as_it_can_be_is_a_400(depth: int) -> None:
    async with serving() as running:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            body = b'{"items":' + opening * (depth // len(opening)) + closing * (depth // len(opening)) + b"}"
            is_problem(await running.client.post(ORDER, content=body, headers=JSON), 400, "invalid-input")


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000


async def post(running: Shop, path: str, size: int, *, chunked: bool) -> httpx.Response:
    return await running.client.post(path, content=pieces(size) if chunked else b" " * size, headers=JSON)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_route_can_take_smaller_bodies_than_the_others(*, chunked: bool) -> None:
    async with serving(protection=_limits({"shop.order": RouteLimits(max_body_bytes=5000)})) as running:
        answer = await post(running, ORDER, 6000, chunked=chunked)
        is_problem(answer, 413, "body-too-large")
        assert "5000" in answer.json()["detail"]
        assert (await post(running, ORDER, 5000, chunked=chunked)).status_code == 400  # it is no JSON
        assert (await post(running, BEHAVE, 6000, chunked=chunked)).status_code == 400


FORMS = """
from quart import Blueprint, request

blueprint = Blueprint("pages", __name__)

@blueprint.post("/form")
async def form():
    return {"parts": len(await request.form) + len(await request.files)}
"""


async def test_a_form_of_a_hand_written_route_has_a_bound_of_parts_and_of_what_is_no_file(
    pages: Callable[..., str],
) -> None:
    async with serving(routes=pages(forms=FORMS)) as running:

        async def send(**fields: int) -> httpx.Response:
            sent = {name: (None, b"x" * size) for name, size in fields.items()}
            return await running.client.post("/form", files=sent)

        assert (await send(**{f"f{number}": 1 for number in range(100)})).json() == {"parts": 100}
        for wrong in ({f"f{number}": 1 for number in range(101)}, {"large": 500_001}):
            answer = await send(**wrong)
            assert "100 parts" in is_problem(answer, 413, "body-too-large")["detail"]
        whole = await running.client.post("/form", files={"file": ("name", b"x" * 500_001)})
        assert whole.json() == {"parts": 1}


async def test_the_time_that_a_contract_grants_becomes_the_deadline_of_its_handler() -> None:
    deadlines.clear()
    async with serving(waiting) as running:
        answer = await running.client.post("/api/hurried/wait", json={})
        assert "0.5 s" in is_problem(answer, 504, "deadline-exceeded")["detail"]
    assert deadlines[0] < 10  # of the thirty seconds of all routes


async def test_the_configuration_of_a_route_goes_before_its_contract() -> None:
    limits = {"hurried.wait": RouteLimits(timeout_s=0.01), "hurried": RouteLimits(timeout_s=20)}
    async with serving(waiting, protection=_limits(limits)) as running:
        answer = await running.client.post("/api/hurried/wait", json={})
        assert "0.01 s" in is_problem(answer, 504, "deadline-exceeded")["detail"]


async def test_other_routes_keep_their_time() -> None:
    limits = {"shop.cancel": RouteLimits(timeout_s=0.01)}
    async with serving(protection=_limits(limits), request_timeout_s=0.1) as running:
        answer = await running.client.post(BEHAVE, json={"how": "hang"})
        assert "0.1 s" in is_problem(answer, 504, "deadline-exceeded")["detail"]


async def test_answers_say_nothing_of_the_server_and_how_to_be_shown() -> None:
    async with serving() as running:
        for path in (FIND, "/livez", "/nothing", "/" + "a" * 9000):
            answer = await running.client.get(path)
            assert "server" not in answer.headers
        answer = await running.client.get(FIND)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"


def _limits(limits: dict[str, RouteLimits]) -> ProtectionSettings:
    return ProtectionSettings(route_limits=limits)
