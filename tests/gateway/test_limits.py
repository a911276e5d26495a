from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.gateway.serving import serving, streaming
from tests.gateway.test_problems import JSON, is_problem


async def test_a_request_that_takes_too_long_is_a_504_and_its_handler_is_cancelled() -> None:
    async with serving(request_timeout_s=0.1) as running:
        answer = await running.client.post("/api/shop/behave", json={"how": "hang"})
        document = is_problem(answer, 504, "deadline-exceeded")
        assert "0.1 s" in document["detail"]
        with anyio.fail_after(5):
            await running.watch.cancelled.wait()


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_body_that_does_not_come_in_time_is_a_408(size: int) -> None:
    async with serving(request_timeout_s=0.1) as running:
        path = "/api/shop/behave"
        async with streaming(
            running, path, "POST", b'{"how": ', content_type="application/json", content_length=f"{size}"
        ) as late:
            assert late.status == 408
            assert late.headers["content-type"] == "application/problem+json"


async def test_one_request_too_many_is_a_503_at_once_and_probes_still_answer() -> None:
    async with serving(requests_at_once=1) as running, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: running.client.post("/api/shop/behave", json={"how": "hang"}))
        with anyio.fail_after(5):
            await running.watch.hanging.wait()
        answer = await running.client.post("/api/shop/cancel", json={"order_id": "o1"})
        is_problem(answer, 503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200
        running.watch.go_on.set()
    assert running.watch.cancelled.is_set() is False


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413(chunked: bool) -> None:
    async with serving(max_body_bytes=10_000) as running:
        content = pieces(20_000) if chunked else b" " * 20_000
        answer = await running.client.post("/api/shop/order", content=content, headers=JSON)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await running.client.post("/api/shop/order", json={"items": []})).status_code == 200


async def test_a_head_over_the_limit_is_a_431() -> None:
    async with serving(max_head_bytes=1000) as running:
        answer = await running.client.get("/livez", headers={"x-long": "x" * 2000})
    assert answer.status_code == 431
    assert answer.headers["content-type"] == "application/problem+json"
