"""OWASP API security, rows 1, 3 and 5: who may what, over all routes and methods, with several principals."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from fissile import Caller, Command, Contract, DeclaredError, Module, Query
from tests.gateway.auth.issuer import Desk, desk, rsa, token, trusting
from tests.identity.modules import billing, orders

ROUTES = {
    "/api/orders/place-order": ("POST", "orders:write", "orders.place-order"),
    "/api/orders/place-in-turn": ("POST", "orders:write", "orders.place-in-turn"),
    "/api/orders/list-orders": ("GET", "orders:read", "orders.list-orders"),
    "/api/orders/who-am-i": ("GET", None, "orders.who-am-i"),
    "/api/orders/check-out": ("POST", None, "orders.check-out"),
    "/api/orders/announce": ("POST", None, "orders.announce"),
    "/api/orders/ask-billing": ("GET", None, "orders.ask-billing"),
    "/api/billing/charge": ("POST", "billing:charge billing:use", "billing.charge"),
    "/api/billing/balance": ("GET", "billing:use", "billing.balance"),
    "/api/orders/topics/announced": ("GET", "orders:watch", None),
    "/api/billing/topics/noted": ("GET", None, None),
}
"""Each route with its method, what it requires, and the handler behind it."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")
OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
QUERIES = {"/api/orders/ask-billing": "?for_itself=false"}
BODIES: dict[str, Any] = {"/api/orders/announce": {"key": "k"}}


@asynccontextmanager
async def roles(folder: Path, *modules: Module) -> AsyncGenerator[Desk]:
    async with desk((orders, billing, *modules), **trusting(folder, rsa())) as here:
        yield here


async def test_every_route_of_the_modules_is_in_the_table(tmp_path: Path) -> None:
    async with roles(tmp_path) as here:
        allowed = {path: (await here.client.options(path)).headers["allow"] for path in ROUTES}
        assert {path: "POST" if "POST" in methods else "GET" for path, methods in allowed.items()} == {
            path: method for path, (method, _, _) in ROUTES.items()
        }
        contracts = (orders.contract, billing.contract)
        declared = [one for each in contracts for one in (*each.commands, *each.queries, *each.topics)]
        assert len(declared) == len(ROUTES)


@pytest.mark.parametrize(
    "scopes",
    [
        None,
        "",
        "orders:read",
        "orders:write",
        "billing:use",
        "billing:charge billing:use",
        "orders:watch",
        "orders orders:* ORDERS:READ orders:rea",
    ],
)
async def test_nobody_gets_further_than_their_scopes(tmp_path: Path, scopes: str | None) -> None:
    """All routes, all methods, with and without the headers by which some frameworks let a client change the method."""
    async with roles(tmp_path) as here:
        headers = {} if scopes is None else {"authorization": f"Bearer {token(here.now, scope=scopes)}"}
        held = set((scopes or "").split())
        for (path, (right, required, handler)), method in product(ROUTES.items(), METHODS):
            missing = [scope for scope in (required or "").split() if scope not in held]
            is_right = method == right or (method == "HEAD" and right == "GET")
            if "topics" in path and method == "GET" and not missing:
                continue  # it has no end; test_streams.py reads it
            before = 0 if handler is None else here.handled(handler)
            options: dict[str, Any] = {"json": BODIES.get(path, {})} if method == "POST" else {}
            answer = await here.client.request(method, path + QUERIES.get(path, ""), headers=headers, **options)
            ran = handler is not None and here.handled(handler) > before
            if not is_right:
                assert answer.status_code == (200 if method == "OPTIONS" else 405), (method, path)
                assert not ran, (method, path)
            elif missing:
                assert answer.status_code == (401 if scopes is None else 403), (method, path)
                assert not ran, (method, path)
            else:
                assert answer.status_code in (200, 204), (method, path, answer.text)
                assert ran or handler is None, (method, path)


async def test_a_header_does_not_change_the_method(tmp_path: Path) -> None:
    async with roles(tmp_path) as here:
        for path, header, method in product(("/api/orders/list-orders", "/api/orders/who-am-i"), OVERRIDES, METHODS):
            assert (await here.client.post(path, json={}, headers={header: method})).status_code == 405
        for path, header in product(("/api/orders/place-order", "/api/billing/charge"), OVERRIDES):
            answer = await here.client.get(path, headers={header: "POST"})
            assert answer.status_code == 405
        assert here.handled("orders.place-order") == here.handled("billing.charge") == 0


async def test_who_lacks_a_scope_learns_which_and_nothing_of_the_input(tmp_path: Path) -> None:
    async with roles(tmp_path) as here:
        for credential, status, challenge in (
            (None, 401, 'Bearer realm="api", scope="billing:charge billing:use"'),
            (
                token(here.now, scope="billing:use"),
                403,
                'Bearer realm="api", error="insufficient_scope", scope="billing:charge"',
            ),
        ):
            headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
            for content in (b"{}", b"nonsense", b'{"unknown": 1}'):
                answer = await here.client.post(
                    "/api/billing/charge", content=content, headers={**headers, "content-type": "application/json"}
                )
                assert (answer.status_code, answer.headers["www-authenticate"]) == (status, challenge)
        answer = await here.client.post(
            "/api/billing/charge", json={}, headers={"authorization": f"Bearer {token(here.now, scope='billing:use')}"}
        )
        document = answer.json()
        assert (document["type"], document["missing_scopes"]) == ("/problems/forbidden", ["billing:charge"])
        assert "billing:use" not in answer.text


async def test_the_module_behind_a_module_checks_who_asked_the_first(tmp_path: Path) -> None:
    async with roles(tmp_path) as here:
        for credential, seen in (
            (None, ("billing:charge,billing:use", "forbidden")),
            (token(here.now), ("billing:charge,billing:use", "forbidden")),
            (token(here.now, scope="billing:charge billing:use"), ("alice", "user")),
        ):
            headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
            answer = await here.client.post("/api/orders/check-out", json={}, headers=headers)
            assert (answer.json()["subject"], answer.json()["kind"]) == seen


async def test_anonymous_has_the_scopes_that_the_settings_say(tmp_path: Path) -> None:
    async with desk(anonymous_scopes=("orders:read",), **trusting(tmp_path, rsa())) as here:
        answer = await here.get()
        assert answer.json() == {"subject": "", "kind": "anonymous", "scopes": ["orders:read"], "tenant": None}
        assert (await here.client.post("/api/orders/place-order", json={})).status_code == 401


async def test_what_is_answered_to_somebody_is_kept_by_nobody_else(tmp_path: Path) -> None:
    async with roles(tmp_path) as here:
        answers = {
            credential is not None: await here.get("/api/orders/who-am-i", credential)
            for credential in (None, token(here.now))
        }
        assert answers[True].headers.get_list("cache-control") == ["private, no-cache"]
        assert answers[False].headers.get_list("cache-control") == ["no-cache"]
        for answer in answers.values():
            assert answer.headers["vary"] == "Authorization, X-API-Key"
        answer = await here.client.post(
            "/api/orders/place-order", json={}, headers={"authorization": f"Bearer {token(here.now)}"}
        )
        assert answer.headers.get_list("cache-control") == ["no-store"]


# --- objects and their properties ------------------------------------------------------------------------------------


@frozen
class NotFound(DeclaredError, status=404):
    """There is no such document, or it is somebody else's."""


@frozen
class ReadNote(Query[str], raises=(NotFound,), requires="notes:read"):
    note_id: str


@frozen
class WriteNote(Command[None], raises=(NotFound,), requires="notes:write"):
    note_id: str
    text: str


def notes() -> Module:
    """A module whose objects have owners: what a module does with the identity of its caller."""
    module = Module(Contract("notes", messages=[ReadNote, WriteNote, NotFound]))
    kept = {"a1": ("alice", "a secret"), "b1": ("bob", "b secret")}

    def own(note_id: str, caller: Caller) -> str:
        owner, text = kept.get(note_id, ("", ""))
        if caller.identity is None or owner != caller.identity.subject:
            raise NotFound
        return text

    @module.query(ReadNote)
    async def read_note(query: ReadNote, caller: Caller) -> str:
        return own(query.note_id, caller)

    @module.command(WriteNote, idempotent=True)
    async def write_note(command: WriteNote, caller: Caller) -> None:
        own(command.note_id, caller)
        kept[command.note_id] = (kept[command.note_id][0], command.text)

    return module


async def test_two_principals_reach_their_own_objects_only(tmp_path: Path) -> None:
    async with roles(tmp_path, notes()) as here:
        headers = {
            name: {"authorization": f"Bearer {token(here.now, sub=name, scope='notes:read notes:write')}"}
            for name in ("alice", "bob")
        }
        for name, note_id in product(headers, ("a1", "b1", "c1")):
            read = await here.client.get(f"/api/notes/read-note?note_id={note_id}", headers=headers[name])
            written = await here.client.post(
                "/api/notes/write-note", json={"note_id": note_id, "text": f"{name} was here"}, headers=headers[name]
            )
            if name[0] == note_id[0]:
                assert (read.status_code, written.status_code) == (200, 204)
            else:
                assert (read.status_code, written.status_code) == (404, 404)
                assert "secret" not in read.text
        missing = await here.client.get("/api/notes/read-note?note_id=c1", headers=headers["alice"])
        others = await here.client.get("/api/notes/read-note?note_id=b1", headers=headers["alice"])
        shown = [{**answer.json(), "request_id": ""} for answer in (missing, others)]
        assert shown[0] == shown[1]


async def test_who_asks_cannot_be_said_in_the_message(tmp_path: Path) -> None:
    async with roles(tmp_path, notes()) as here:
        headers = {"authorization": f"Bearer {token(here.now, scope='notes:write orders:write')}"}
        for field in ("subject", "identity", "scopes", "owner", "_identity", "caller", "fissile-identity"):
            body = {"note_id": "b1", "text": "x", field: "bob"}
            answer = await here.client.post("/api/notes/write-note", json=body, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-input")
        forged = {"fissile-identity": "x", "x-user": "bob", "x-forwarded-user": "bob", "fissile-caller": "billing"}
        answer = await here.client.post("/api/orders/place-order", json={}, headers={**headers, **forged})
        assert answer.json()["subject"] == "alice"
