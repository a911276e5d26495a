from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from tests.gateway import shop
from tests.gateway.serving import serving


async def test_a_command_is_a_post_that_answers_with_its_reply() -> None:
    async with serving() as running:
        answer = await running.client.post(
            "/api/shop/order", json={"items": [{"name": "pen", "count": 2}], "note": "a: b"}
        )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"order_id": "o1", "total": 2, "note": "a: b"}
    assert running.watch.seen == [shop.Order((shop.Item("pen", 2),), "a: b")]


async def test_a_command_without_a_reply_answers_204() -> None:
    async with serving() as running:
        answer = await running.client.post("/api/shop/cancel", json={"order_id": "o1"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert "content-type" not in answer.headers


async def test_a_query_is_a_get_with_typed_parameters() -> None:
    async with serving() as running:
        answer = await running.client.get(
            "/api/shop/find?limit=3&price=1&rush=true&text=null&size=large&kind=b&level=2&after=2026-01-02T03:04:05Z"
            "&id=12345678-1234-5678-1234-567812345678&amount=1.10&tags=a&tags=b%26+c&numbers=-1&like=%7B%22name%22:%22pen%22%7D"
        )
    assert answer.status_code == 200
    assert running.watch.seen == [
        shop.Find(
            limit=3,
            price=1.0,
            rush=True,
            text="null",
            size=shop.Size.LARGE,
            kind="b",
            level=2,
            after=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            id=UUID("12345678-1234-5678-1234-567812345678"),
            amount=Decimal("1.10"),
            tags=("a", "b& c"),
            numbers=(-1,),
            like=shop.Item("pen"),
        )
    ]


async def test_a_query_whose_reply_is_none_answers_null_where_the_type_is_optional() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/shop/get-order?order_id=none")
    assert (answer.status_code, answer.json()) == (200, None)


async def test_a_query_answers_head_without_a_body() -> None:
    async with serving() as running:
        answer = await running.client.head("/api/shop/get-order?order_id=1")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_body_may_be_larger_than_what_is_read_at_once() -> None:
    async with serving() as running:
        note = "x: " * 100_000
        answer = await running.client.post("/api/shop/order", json={"items": [], "note": note})
    assert answer.json()["note"] == note


async def test_a_body_may_come_in_chunks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"items": '
        yield b"[]}"

    async with serving() as running:
        answer = await running.client.post(
            "/api/shop/order", content=pieces(), headers={"content-type": "application/json"}
        )
    assert answer.status_code == 200


async def test_the_gateway_has_no_routes_of_its_own() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/gateway/anything")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no module 'gateway'. The modules are: shop."


@pytest.mark.parametrize("path", ["/api/shop/order", "/api/shop/get-order?order_id=1"])
async def test_answers_of_the_api_have_security_headers(path: str) -> None:
    async with serving() as running:
        is_command = path.endswith("/order")
        answer = await (running.client.post(path, json={"items": []}) if is_command else running.client.get(path))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["cache-control"] == ("no-store" if is_command else "no-cache")
    assert "server" not in answer.headers
