"""What the gateway tells of itself: both documents are valid, complete and kept, and the page is one file."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from openapi_spec_validator import validate
from quart import Quart

from fissile import Contract
from fissile._asyncapi import asyncapi
from fissile_gateway import operation
from fissile_gateway._documents.openapi import openapi
from modules.challenges.contract import contract as challenges
from modules.code_executor.contract import contract as code_executor
from tests.gateway import everything, guarded
from tests.gateway.documented import hosting, written

ASYNCAPI = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text(encoding="utf-8"))


def operation_at(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][path][method]
    return found


def parameter(described: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in described["parameters"] if one.get("name") == name]
    return dict(found)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document of `everything` and of `guarded`, with hand-written routes."""
    return written(everything.contract, guarded.contract)


# --- OpenAPI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "contracts", [(), (everything.contract, guarded.contract), (code_executor, challenges)], ids=str
)
def test_the_openapi_document_is_valid(contracts: tuple[Contract, ...]) -> None:
    validate(written(*contracts))


async def test_every_route_of_the_gateway_is_in_the_document_and_back(document: dict[str, Any]) -> None:
    async with hosting([everything.module, guarded.module]) as hosted:
        derived: Any = hosted.gateway.routes
        quart = derived._quart
        routes = {
            (re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
            for rule in quart.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
        }
        async with httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client:
            served = (await client.get("/openapi.json")).json()
    described = {
        (path, method)
        for path, item in served["paths"].items()
        for method in item
        if method in ("get", "put", "post", "delete", "patch")
    }
    assert described == routes
    assert served == document


def test_what_is_not_public_is_in_no_document_of_the_gateway(document: dict[str, Any]) -> None:
    assert "Secret" not in json.dumps(document)
    assert "Hidden" not in json.dumps(document)


async def test_what_is_not_public_is_not_there() -> None:
    async with (
        hosting([everything.module]) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        asked = await client.post("/api/everything/secret", json={"word": "x"})
        followed = await client.get("/api/everything/topics/hidden")
        told = (await client.get("/asyncapi.json")).text
    assert (asked.status_code, followed.status_code) == (404, 404)
    assert "secret" not in asked.json()["detail"].partition("Its routes are")[2]
    assert "everything.secret" not in told
    assert "everything.hidden" not in told


def test_constraints_defaults_examples_and_docstrings_are_in_the_schemas(document: dict[str, Any]) -> None:
    leaf = document["components"]["schemas"]["everything.Leaf-Input"]
    assert leaf["description"] == "A small thing."
    assert leaf["required"] == ["name"]
    assert leaf["additionalProperties"] is False
    assert leaf["properties"]["name"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 20,
        "examples": ["oak"],
        "description": "What it is called.",
    }
    weight = leaf["properties"]["weight"]
    assert (weight["minimum"], weight["maximum"], weight["default"]) == (0, 1000, 1.0)
    assert weight["description"] == "What it weighs, in grams."


def test_an_answer_has_all_of_its_fields_and_may_get_more(document: dict[str, Any]) -> None:
    leaf = document["components"]["schemas"]["everything.Leaf"]
    assert leaf["required"] == ["name", "weight"]
    assert "additionalProperties" not in leaf


def test_parameters_are_as_the_query_string_is_read(document: dict[str, Any]) -> None:
    search = operation_at(document, "/api/everything/search", "get")
    assert parameter(search, "text")["required"] is True
    assert parameter(search, "text")["description"] == "What their names contain."
    assert parameter(search, "maybe")["schema"] == {"type": "string"}
    assert parameter(search, "tags")["explode"] is True
    assert parameter(search, "like")["content"]["application/json"]["schema"]["anyOf"][0] == {
        "$ref": "#/components/schemas/everything.Leaf-Input"
    }
    assert "everything.Search" not in document["components"]["schemas"]
    assert parameter(operation_at(document, "/api/everything/needs", "get"), "names")["schema"]["minItems"] == 1


def test_declared_errors_are_responses_with_their_status_and_fields(document: dict[str, Any]) -> None:
    touch = operation_at(document, "/api/everything/touch", "post")
    refs = [
        option["$ref"] for option in touch["responses"]["409"]["content"]["application/problem+json"]["schema"]["anyOf"]
    ]
    assert refs == [f"#/components/schemas/{name}" for name in ("everything.Taken", "everything.Odd", "Problem")]
    assert "`taken`: Another has it." in touch["responses"]["409"]["description"]
    taken = document["components"]["schemas"]["everything.Taken"]
    assert taken["properties"]["type"] == {"const": "/problems/taken"}
    assert taken["properties"]["error"]["properties"]["by"] == {
        "$ref": "#/components/schemas/everything.Leaf",
        "description": "Who.",
    }


def test_a_stream_tells_its_events_and_how_to_go_on(document: dict[str, Any]) -> None:
    touches = operation_at(document, "/api/everything/topics/touches", "get")
    schema = touches["responses"]["200"]["content"]["text/event-stream"]["schema"]
    named = {
        frame["properties"]["event"]["const"]: frame["properties"]["data"]["contentSchema"]
        for frame in schema["anyOf"]
        if "event" in frame["properties"]
    }
    assert named["touched"] == {"$ref": "#/components/schemas/everything.Touched"}
    assert {"touched", "broken", "reset"} <= named.keys()
    assert {one["name"] for one in touches["parameters"]} >= {"key", "Last-Event-ID"}


def test_scopes_timeouts_keys_and_ages_of_a_contract_are_told(document: dict[str, Any]) -> None:
    pay = operation_at(document, "/api/guarded/pay", "post")
    assert pay["security"] == [{"bearer": ["money:write"]}, {"apiKey": ["money:write"]}]
    assert parameter(pay, "Idempotency-Key")["required"] is True
    assert {"202", "401", "403", "409", "422"} <= pay["responses"].keys()
    assert "The gateway waits 5 s for it." in pay["description"]
    balance = operation_at(document, "/api/guarded/balance", "get")
    assert "max-age=60" in balance["responses"]["200"]["headers"]["Cache-Control"]["description"]
    assert "304" in balance["responses"]
    assert operation_at(document, "/api/guarded/topics/payments", "get")["security"][0] == {
        "bearer": ["money:read", "audit"]
    }
    assert "security" not in operation_at(document, "/api/everything/touch", "post")
    assert "403" not in operation_at(document, "/api/everything/touch", "post")["responses"]


def test_a_contract_that_is_deprecated_is_told_to_be(document: dict[str, Any]) -> None:
    pay = operation_at(document, "/api/guarded/pay", "post")
    assert pay["deprecated"] is True
    assert pay["description"].startswith("Deprecated since 2026-01-31, gone from 2027-01-31 on.")
    assert "deprecated" not in operation_at(document, "/api/everything/touch", "post")


def test_a_hand_written_route_is_described_by_what_it_says_of_itself(document: dict[str, Any]) -> None:
    total = operation_at(document, "/total", "get")
    assert total["summary"] == "Count."
    assert total["responses"]["200"]["content"]["application/json"]["schema"] == {"type": "integer", "format": "int64"}
    assert (total["security"][0], "403" in total["responses"]) == ({"bearer": ["totals:read"]}, True)
    press = operation_at(document, "/press", "post")
    assert press["tags"] == ["everything"]
    assert press["responses"].keys() >= {"201", "404"}


def test_a_hand_written_route_that_says_nothing_is_there_all_the_same(document: dict[str, Any]) -> None:
    undescribed = operation_at(document, "/pages/{year}/{season}", "get")
    assert undescribed["summary"] == "Show a season."
    assert [(one["name"], one["schema"]) for one in undescribed["parameters"]] == [
        ("year", {"type": "integer", "minimum": 0}),
        ("season", {"type": "string", "enum": ["spring", "autumn"]}),
    ]
    assert "default" in undescribed["responses"]


def test_a_mounted_application_is_there_with_its_path(document: dict[str, Any]) -> None:
    assert document["paths"]["/legacy"]["x-mounted"] is True


def test_a_mounted_application_needs_no_other_routes() -> None:
    described = openapi("testing", "1", (), Quart(__name__, static_folder=None), {"/legacy": object()})
    validate(json.loads(json.dumps(described)))
    assert "securitySchemes" not in described["components"]


def test_the_order_of_a_document_is_always_the_same(document: dict[str, Any]) -> None:
    assert json.dumps(written(everything.contract, guarded.contract)) == json.dumps(document)


def test_two_classes_of_one_name_have_two_schemas() -> None:
    messages = [everything.Search, guarded.Balance]
    both = Contract("one", messages=messages[:1]), Contract("two", messages=messages[1:])
    schemas = written(*both)["components"]["schemas"]
    assert {"Leaf", f"{guarded.__name__}.Leaf"} <= schemas.keys()


def test_a_description_laid_over_a_route_wins() -> None:
    @operation(openapi={"summary": "Mine", "deprecated": True})
    async def view() -> str:
        """Not this."""
        return ""

    quart = Quart(__name__, static_folder=None)
    quart.add_url_rule("/mine", view_func=view)
    described = openapi("testing", "1", (), quart, {})["paths"]["/mine"]["get"]
    assert (described["summary"], described["deprecated"]) == ("Mine", True)


# --- AsyncAPI --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contracts", [(everything.contract, guarded.contract), (code_executor, challenges)], ids=str)
def test_the_asyncapi_document_is_valid(contracts: tuple[Contract, ...]) -> None:
    described = json.loads(json.dumps(asyncapi("testing", "1", contracts)))
    check = jsonschema_rs.validator_for(ASYNCAPI)
    assert [str(error) for error in check.iter_errors(described)] == []
    assert list(check.iter_errors({**described, "channels": {"x": {"adress": "y"}}})) != []
    assert dangling(described) == []


def test_the_asyncapi_document_tells_requests_with_replies_and_topics_with_keys() -> None:
    told = asyncapi("testing", "1", (everything.contract,))
    touch = told["operations"]["everything.touch"]
    assert touch["action"] == "receive"
    assert touch["channel"] == {"$ref": "#/channels/everything.requests"}
    assert [message["$ref"].rpartition("/")[2] for message in touch["reply"]["messages"]] == [
        "everything.touch.reply",
        "everything.Missing",
        "everything.Taken",
        "everything.Odd",
        "failed",
        "invalid",
    ]
    assert touch["bindings"]["kafka"]["groupId"]["enum"] == ["testing.everything"]
    topic = told["channels"]["everything.touches"]
    assert topic["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] == 60_000
    assert list(topic["messages"]) == ["everything.touched", "everything.broken"]
    assert "key" in told["components"]["messages"]["everything.touched"]["bindings"]["kafka"]
    assert "everything.secret" in told["operations"]


def dangling(document: Any) -> list[str]:
    """References in a document that lead nowhere."""

    def refs(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [ref for inner in value.values() for ref in refs(inner)]
        return [ref for inner in value for ref in refs(inner)] if isinstance(value, list) else []

    lost: list[str] = []
    for ref in refs(document):
        here = document
        for step in ref.removeprefix("#/").split("/"):
            here = here.get(step) if isinstance(here, dict) else None
        if here is None:
            lost.append(ref)
    return lost


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/openapi.json", "application/json"),
        ("/asyncapi.json", "application/json"),
        ("/api", "text/html; charset=utf-8"),
    ],
)
async def test_a_document_is_asked_for_again_only_when_it_has_changed(path: str, content_type: str) -> None:
    async with (
        hosting([everything.module]) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        first = await client.get(path)
        again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
        other = await client.get(path, headers={"if-none-match": '"other"'})
        head = await client.head(path)
    assert (first.status_code, first.headers["content-type"]) == (200, content_type)
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert other.content == first.content
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json", "/api"])
async def test_the_documents_can_be_switched_off(path: str) -> None:
    async with (
        hosting([everything.module], api_documents=False) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        answer = await client.get(path)
    assert answer.status_code == 404


async def test_the_document_of_a_mounted_gateway_says_where_it_is_mounted() -> None:
    async with hosting([everything.module]) as hosted:
        gateway: Any = hosted.gateway
        transport = httpx.ASGITransport(app=gateway, root_path="/sub")
        async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
            document = (await client.get("/sub/openapi.json")).json()
    assert document["servers"] == [{"url": "/sub"}]
    validate(document)


async def test_trace_is_a_405_that_reflects_nothing() -> None:
    async with (
        hosting([everything.module]) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        answer = await client.request("TRACE", "/api/everything/count", headers={"x-secret": "hush"})
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert answer.headers["connection"] == "close"
    assert "hush" not in answer.text


class Seen(HTMLParser):
    """The tags, ids and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.style = ""
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_style = tag == "style"
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


async def test_the_page_is_one_file_that_its_policy_lets_a_browser_show() -> None:
    async with (
        hosting([everything.module]) as hosted,
        httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client,
    ):
        answer = await client.get("/api")
    seen = Seen()
    seen.feed(answer.text)
    assert not seen.tags & {"script", "img", "iframe", "form", "link", "object"}
    assert not {name for name in seen.attributes if name.startswith("on")} | (seen.attributes & {"style", "src"})
    digest = b64encode(sha256(seen.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(set(seen.ids)) == len(seen.ids)
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert {link for link in seen.links if not link.startswith("#")} == {"openapi.json", "asyncapi.json"}


async def test_the_page_shows_what_a_contract_says_as_text() -> None:
    async with hosting([guarded.module]) as hosted, httpx.AsyncClient(base_url=hosted.url, trust_env=False) as client:
        page = (await client.get("/api")).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in page
    assert "Requires <code>money:write</code>." in page
    assert "-H &quot;Authorization: Bearer $TOKEN&quot;" in page
