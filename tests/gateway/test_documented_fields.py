"""What the OpenAPI document says that may be sent is taken, and pages of other origins may send and read the fields that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fissile_gateway import ProtectionSettings
from tests.gateway import everything, guarded
from tests.gateway.documented import hosting, written
from tests.gateway.versions import first

READ_ANYWAY = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}
"""The fields of answers that pages of other origins may read unless told otherwise (Fetch, CORS-safelisted response-header names)."""
TOPIC = "/api/everything/topics/touches"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return written(everything.contract, guarded.contract, first.contract)


def parameters_of(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in operation.get("parameters", ()):
        name = one.get("$ref", "").rpartition("/")[2]
        yield document["components"]["parameters"][name] if name else one


def operations_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for item in document["paths"].values() for each in item.values() if isinstance(each, dict)]


async def test_a_stream_takes_the_parameters_that_the_document_names_and_no_others(document: dict[str, Any]) -> None:
    told = {
        one["name"]: one["schema"]
        for one in parameters_of(document, document["paths"][TOPIC]["get"])
        if one["in"] == "query"
    }
    async with (
        hosting([everything.module, guarded.module]) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        event_id = re.search(r"^id: (.+)$", (await client.get(TOPIC)).text, re.MULTILINE)
        assert event_id is not None
        assert re.search(told["after"]["pattern"], event_id[1])
        for name in ("key", "after", "Last-Event-ID", "start", "from", "x"):
            answer = await client.head(TOPIC, params={name: event_id[1]})
            assert (answer.status_code == 200) == (name in told), name
        for wrong in ("x", f"{event_id[1]}x", "", f" {event_id[1]}"):
            assert re.search(told["after"]["pattern"], wrong) is None
            answer = await client.get(TOPIC, params={"after": wrong})
            assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-input")
    assert "400" in document["paths"][TOPIC]["get"]["responses"]


def test_pages_of_other_origins_may_send_the_fields_that_the_document_names(document: dict[str, Any]) -> None:
    allowed = set(ProtectionSettings().cors_headers)
    told = {
        one["name"].lower()
        for operation in operations_of(document)
        for one in parameters_of(document, operation)
        if one["in"] == "header"
    }
    told |= {each["name"].lower() for each in document["components"]["securitySchemes"].values() if "name" in each}
    assert {"idempotency-key", "last-event-id", "x-api-key"} <= told <= allowed
    assert {"authorization", "content-type", "traceparent", "tracestate", "x-request-id"} <= allowed


def test_pages_of_other_origins_may_read_the_fields_that_the_document_names(document: dict[str, Any]) -> None:
    responses = [
        *document["components"]["responses"].values(),
        *(answer for operation in operations_of(document) for answer in operation["responses"].values()),
    ]
    told = {name.lower() for answer in responses for name in answer.get("headers", {})}
    assert {"etag", "idempotency-replayed", "deprecation", "www-authenticate"} <= told
    assert told - READ_ANYWAY <= set(ProtectionSettings().cors_exposed)
    assert {"ratelimit", "ratelimit-policy"} <= set(ProtectionSettings().cors_exposed)
