"""What an application puts around all routes is around those of commands and queries too; these are answered without Quart otherwise."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from quart.signals import request_started

from tests.gateway.serving import building, client_at

ORDER, FIND = "/api/shop/order", "/api/shop/find"

HEAD = """
from quart import Blueprint, Response, request
from quart.signals import request_started
from tests.gateway.shop import SoldOut

blueprint = Blueprint("around", __name__)
"""

AROUND = {
    "a function before each": """
@blueprint.before_app_request
async def before():
    request.scope["fissile.exchange"].fields += ((b"x-around", request.path.encode()),)
""",
    "a function after each": """
@blueprint.after_app_request
async def after(response):
    response.headers["x-around"] = request.path
    return response
""",
    "an ASGI application": """
def wrap(inner):
    async def around(scope, receive, send):
        async def send_on(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-around", scope["path"].encode())]}
            await send(message)
        await inner(scope, receive, send_on)
    return around

@blueprint.record_once
def record(state):
    state.app.asgi_app = wrap(state.app.asgi_app)
""",
    "another method of Quart's": """
@blueprint.record_once
def record(state):
    finalize = state.app.finalize_request
    async def finalize_request(*args, **kwargs):
        response = await finalize(*args, **kwargs)
        response.headers["x-around"] = request.path
        return response
    state.app.finalize_request = finalize_request
""",
    "another view": """
@blueprint.record_once
def record(state):
    for endpoint, view in list(state.app.view_functions.items()):
        async def around(view=view, **values):
            response = await view(**values)
            response.headers["x-around"] = request.path
            return response
        if endpoint.startswith("shop/"):
            state.app.view_functions[endpoint] = around
""",
}


@pytest.mark.parametrize("what", AROUND)
async def test_what_stands_around_all_routes_stands_around_commands_and_queries(
    pages: Callable[..., str], what: str
) -> None:
    async with (
        building(routes=pages(pages=HEAD + AROUND[what])) as (gateway, watch),
        client_at(gateway, "192.0.2.1") as client,
    ):
        answers = [await client.post(ORDER, json={"items": []}), await client.get(FIND), await client.head(FIND)]
    assert [(answer.status_code, answer.headers.get("x-around")) for answer in answers] == [
        (200, ORDER),
        (200, FIND),
        (200, FIND),
    ]
    assert len(watch.seen) == 3


async def test_what_says_no_to_all_says_it_to_commands_too(pages: Callable[..., str]) -> None:
    no = """
@blueprint.before_app_request
async def no():
    return Response("closed today", 403)
"""
    async with (
        building(routes=pages(pages=HEAD + no)) as (gateway, watch),
        client_at(gateway, "192.0.2.1") as client,
    ):
        answer = await client.post(ORDER, json={"items": []})
    assert (answer.status_code, answer.text, watch.seen) == (403, "closed today", [])


async def test_an_applications_own_answer_to_an_error_is_given_for_commands_too(pages: Callable[..., str]) -> None:
    own = """
@blueprint.app_errorhandler(SoldOut)
async def sold_out(error):
    return Response(f"no {error.name}", 410)
"""
    async with (
        building(routes=pages(pages=HEAD + own)) as (gateway, _),
        client_at(gateway, "192.0.2.1") as client,
    ):
        answer = await client.post(ORDER, json={"items": [{"name": "unicorn"}]})
    assert (answer.status_code, answer.text) == (410, "no unicorn")


async def test_who_listens_to_quarts_signals_hears_of_commands_too() -> None:
    heard: list[object] = []

    def hear(sender: object) -> None:
        heard.append(sender)

    async with building() as (gateway, _), client_at(gateway, "192.0.2.1") as client:
        with request_started.connected_to(hear):
            await client.post(ORDER, json={"items": []})
        await client.post(ORDER, json={"items": []})
    assert len(heard) == 1


async def test_an_answer_is_the_same_whether_or_not_anything_stands_around_it(pages: Callable[..., str]) -> None:
    nothing = """
@blueprint.before_app_request
async def nothing():
    pass
"""
    told: list[list[tuple[int, bytes, list[tuple[str, str]]]]] = []
    for package in (pages(pages=HEAD), pages(pages=HEAD + nothing)):
        async with building(routes=package) as (gateway, _), client_at(gateway, "192.0.2.1") as client:
            told.append([_what_it_says(await client.send(request)) for request in _requests(client)])
    assert told[0] == told[1]
    assert {status for status, _, _ in told[0]} == {200, 204, 304, 400, 404, 405, 409, 415, 422}


def _requests(client: httpx.AsyncClient) -> list[httpx.Request]:
    make = client.build_request
    large: dict[str, object] = {"items": [], "note": "x" * 70_000}
    fields = {"x-request-id": "r1"}
    return [
        make("POST", ORDER, json={"items": []}, headers=fields),
        make("POST", ORDER, json=large, headers=fields),
        make("POST", ORDER, json={"items": [{"name": "unicorn"}]}, headers=fields),
        make("POST", ORDER, json={"items": [{"name": "sword"}]}, headers=fields),
        make("POST", ORDER, json={"items": 1}, headers=fields),
        make("POST", ORDER, content=b"{}", headers=fields),
        make("POST", ORDER, json={"items": []}, headers={**fields, "idempotency-key": '"k"'}),
        make("POST", ORDER, json={"items": []}, headers={**fields, "idempotency-key": '"k"'}),
        make("POST", "/api/shop/cancel", json={"order_id": "o1"}, headers=fields),
        make("GET", ORDER, headers=fields),
        make("OPTIONS", ORDER, headers=fields),
        make("GET", f"{ORDER}/", headers=fields),
        make("GET", FIND, headers=fields),
        make("HEAD", FIND, headers=fields),
        make("GET", FIND, headers={**fields, "if-none-match": "*"}),
        make("GET", f"{FIND}?nothing=1", headers=fields),
        make("POST", FIND, json={}, headers=fields),
    ]


def _what_it_says(answer: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    return answer.status_code, answer.content, sorted(answer.headers.multi_items())
