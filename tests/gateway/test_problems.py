from __future__ import annotations

from typing import Any

import httpx
import pytest

from fissile import (
    CallRefused,
    DeadlineExceeded,
    HandlerFailed,
    InvalidMessage,
    MessageTooLarge,
    Overloaded,
    Unavailable,
    UnknownMessage,
)
from fissile_gateway._problems import problem_of
from tests.gateway import shop
from tests.gateway.serving import serving

JSON = {"content-type": "application/json"}


def is_problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    assert answer.status_code == status, document
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"/problems/{name}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return document


async def test_a_declared_error_has_its_status_its_name_and_its_fields() -> None:
    async with serving() as running:
        answer = await running.client.post("/api/shop/order", json={"items": [{"name": "unicorn"}]})
        document = is_problem(answer, 409, "sold-out")
        assert document["error"] == {"name": "unicorn", "left": 0}
        assert document["detail"] == "There is nothing left of what was ordered."
        answer = await running.client.post("/api/shop/order", json={"items": [{"name": "sword"}]})
        document = is_problem(answer, 422, "forbidden")
        assert document["error"] == {"reason": "no weapons"}


async def test_a_handler_that_fails_answers_500_with_the_id_to_look_for_and_nothing_from_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as running:
        answer = await running.client.post("/api/shop/behave", json={"how": "fail"})
    document = is_problem(answer, 500, "handler-failed")
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    logged = [record.__dict__.get("message_id") for record in caplog.records if record.name == "fissile.handler"]
    assert logged == [document["message_id"]]


@pytest.mark.parametrize(
    ("error", "status", "name", "retry_after"),
    [
        (HandlerFailed("shop.order", "m1", "RuntimeError", "secret"), 500, "handler-failed", None),
        (DeadlineExceeded("shop.order did not answer."), 504, "deadline-exceeded", None),
        (Unavailable("shop.order was not called."), 503, "unavailable", "1"),
        (Overloaded("shop.order was not called."), 503, "overloaded", "1"),
        (InvalidMessage("shop.order", "note: x is beyond 64 bits"), 400, "invalid-input", None),
        (MessageTooLarge("shop.order", 2, 1), 413, "message-too-large", None),
        (CallRefused("It was refused."), 500, "call-refused", None),
        (UnknownMessage("Nobody handles it."), 404, "unknown-message", None),
        (shop.SoldOut("unicorn", 0), 409, "sold-out", None),
        (ExceptionGroup("group", [shop.SoldOut("unicorn", 0)]), 409, "sold-out", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_of_a_call_is_a_problem(error: Exception, status: int, name: str, retry_after: str | None) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.name) == (status, name)
    assert dict(problem.headers).get("retry-after") == retry_after
    assert b"secret" not in problem.document("r1")


def test_an_error_that_nobody_expected_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    problem = problem_of(KeyError("secret"))
    assert (problem.status, problem.name) == (500, "internal-error")
    assert b"secret" not in problem.document("r1")
    assert "secret" in caplog.text


def test_an_invalid_message_tells_the_path_of_its_field() -> None:
    (error,) = problem_of(InvalidMessage("shop.order", "items: count: 7 is beyond 64 bits")).errors
    assert (error.path, error.message) == ("$.items.count", "7 is beyond 64 bits")


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        (b"", "$", "the body is empty; send a JSON object, such as {}"),
        (b"{", "$", "the body is not JSON: expecting property name enclosed in double quotes (line 1, column 2)"),
        (b"[]", "$", "expected `object`, got `array`"),
        (b'{"items": [], "nope": 1}', "$.nope", "there is no such field"),
        (b'{"items": [{"name": "x", "nope": 1}]}', "$.items[0].nope", "there is no such field"),
        (b"{}", "$.items", "the field is missing"),
        (b'{"items": [{"count": 1}]}', "$.items[0].name", "the field is missing"),
        (b'{"items": [{"name": 1}]}', "$.items[0].name", "expected `str`, got `int`"),
        (b'{"items": [], "items": []}', "$.items", "the key is given twice"),
        (b'{"items": [], "labels": {"a": "1", "\\u0061": "2"}}', "$.labels.a", "the key is given twice"),
        (b'{"items": [{"name": "x", "name": "y"}]}', "$.items[0].name", "the key is given twice"),
        (
            b'{"items": [], "discount": NaN}',
            "$",
            "the body is not JSON: NaN, Infinity and unpaired surrogates cannot be sent",
        ),
        (
            b'{"items": [], "note": "\\ud800"}',
            "$",
            "the body is not JSON: NaN, Infinity and unpaired surrogates cannot be sent",
        ),
        (b'{"items": [], "discount": 1e999}', "$.discount", "number out of range"),
        (b'{"items": [], "note": "\xff"}', "$", "the body is not UTF-8 (byte 23)"),
        ('{"items": []}'.encode("utf-16"), "$", "the body is not UTF-8 (byte 0)"),
        (
            b'{"items": [{"name": "x", "count": 9223372036854775808}]}',
            "$.items[0].count",
            "expected `int` <= 9223372036854775807",
        ),
        (b'{"items": ' + b"[" * 100_000, "$.items", "expected `object`, got `array`"),
        (b'{"items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "$.items", "expected `object`, got `array`"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_place(body: bytes, path: str, message: str) -> None:
    async with serving() as running:
        document = is_problem(
            await running.client.post("/api/shop/order", content=body, headers=JSON), 400, "invalid-input"
        )
        assert running.watch.seen == []
    assert len(document["errors"]) == 1
    assert document["errors"][0]["path"].startswith(path)
    assert document["errors"][0]["message"].startswith(message)


async def test_all_wrong_fields_of_a_body_are_named_together() -> None:
    async with serving() as running:
        answer = await running.client.post("/api/shop/order", json={"note": 1, "nope": 2, "discount": "x"})
    document = is_problem(answer, 400, "invalid-input")
    assert {error["path"] for error in document["errors"]} == {"$.items", "$.note", "$.nope", "$.discount"}


async def test_all_wrong_parameters_of_a_query_are_named_together() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/shop/find?limit=x&nope=1&price=nan&text=a&text=b&size=huge")
        document = is_problem(answer, 400, "invalid-input")
        assert {error["path"]: error["message"] for error in document["errors"]} == {
            "$.limit": "expected `int`, got `str`",
            "$.nope": "there is no such parameter; there are limit, price, rush, text, size, kind, level, after, id, amount, "
            "tags, numbers, like",
            "$.price": "expected `float`, got `str`",
            "$.text": "the parameter is given 2 times",
            "$.size": "invalid enum value 'huge'",
        }
        document = is_problem(await running.client.get("/api/shop/get-order"), 400, "invalid-input")
        assert document["errors"] == [{"path": "$.order_id", "message": "the parameter is missing"}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_that_is_not_plain_json_is_a_415(headers: dict[str, str]) -> None:
    async with serving() as running:
        answer = await running.client.post("/api/shop/order", content=b'{"items": []}', headers=headers)
    is_problem(answer, 415, "unsupported-media-type")


async def test_json_may_name_its_only_encoding() -> None:
    async with serving() as running:
        headers = {"content-type": 'Application/JSON; charset="UTF-8"'}
        answer = await running.client.post("/api/shop/order", content=b'{"items": []}', headers=headers)
    assert answer.status_code == 200


async def test_an_unknown_route_is_a_404_that_names_what_is_near() -> None:
    async with serving() as running:
        document = is_problem(await running.client.post("/api/shop/ordr", json={}), 404, "not-found")
        assert "Did you mean /api/shop/order?" in document["detail"]
        document = is_problem(await running.client.get("/api/shp/order"), 404, "not-found")
        assert "Did you mean shop?" in document["detail"]
        is_problem(await running.client.get("/nowhere"), 404, "not-found")
        is_problem(await running.client.get("//api/shop/get-order?order_id=1"), 404, "not-found")
        is_problem(await running.client.post("/api/shop/order/", json={"items": []}), 404, "not-found")


async def test_a_wrong_method_is_a_405_that_names_the_right_one() -> None:
    async with serving() as running:
        answer = await running.client.get("/api/shop/order")
    document = is_problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == {"POST", "OPTIONS"}
    assert document["detail"] == "GET is not possible here; POST is."
