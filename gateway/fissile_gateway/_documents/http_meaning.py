"""What the attributes of a contract's classes add to an operation: scopes, idempotency keys, caching, timeouts.

Each function takes the operation as it follows from the types, and adds parameters, headers and responses for one concern.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fissile import Command, Contract, Query
from fissile._schemas import Json
from fissile_gateway._caching import cache_control
from fissile_gateway._documents.operation_routes import OPERATION_REF

BEARER = "bearer"
API_KEY = "apiKey"
_STRING: Json = {"type": "string"}
_REQUEST_ID: Json = {"$ref": "#/components/headers/X-Request-ID"}


def security_of(scopes: Sequence[str]) -> list[Json]:
    """Return the security requirements of an operation: either scheme, with all scopes; none where no scope is required."""
    return [{BEARER: list(scopes)}, {API_KEY: list(scopes)}] if scopes else []


def security_schemes() -> Json:
    """Return the schemes that `security_of` names."""
    return {
        BEARER: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A JSON Web Token whose claim `scope` carries the scopes.",
        },
        API_KEY: {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "A key that the operator has made, with scopes of its own.",
        },
    }


def component_parameters() -> Json:
    """Return the parameters that operations refer to."""
    return {
        "If-None-Match": {
            "name": "If-None-Match",
            "in": "header",
            "description": "The `ETag` of a reply that the client has; the answer is 304 if it would be the same.",
            "schema": _STRING,
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Names this request, in double quotes; a repeat with the same key and content gets the "
            "first answer and does nothing.",
            "schema": {"type": "string", "pattern": r'^"[ !#-\[\]-~]{1,255}"$'},
            "example": '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
        },
        "Prefer": {
            "name": "Prefer",
            "in": "header",
            "description": "`respond-async`: answer 202 at once (RFC 7240).",
            "schema": _STRING,
            "example": "respond-async",
        },
    }


def component_answers() -> Json:
    """Return the responses besides problems that operations refer to."""
    return {
        "Accepted": {
            "description": "It has begun; `Location` tells where it stands. Only with `Prefer: respond-async`.",
            "headers": {
                "X-Request-ID": _REQUEST_ID,
                "Location": {
                    "description": "Where the outcome will be.",
                    "schema": {"type": "string", "format": "uri-reference"},
                },
                "Preference-Applied": {"schema": _STRING},
                "Retry-After": {"$ref": "#/components/headers/Retry-After"},
            },
            "content": {"application/json": {"schema": {"$ref": OPERATION_REF}}},
        },
        "NotModified": {
            "description": "The reply is the one that the client has.",
            "headers": {"X-Request-ID": _REQUEST_ID, "ETag": {"schema": _STRING}},
        },
    }


def add_to_query(operation: Json, query: type[Query[Any]], answer: Json) -> None:
    """Add what HTTP says of a query: how long its reply may be used again, and that it can be asked for only if it changed.

    Args:
        operation: The operation.
        query: The class of the query.
        answer: The response of a success, in the operation.
    """
    shown = f"`{cache_control(query)}`; `private` besides for who says who asks"
    answer["headers"] |= {
        "Cache-Control": {"description": f"{shown}.", "schema": _STRING},
        "ETag": {"description": "Names this reply, for `If-None-Match`.", "schema": _STRING},
    }
    operation["parameters"].append({"$ref": "#/components/parameters/If-None-Match"})
    operation["responses"][304] = {"$ref": "#/components/responses/NotModified"}
    _add_timeout(operation, query.gateway_timeout_s)


def add_to_command(operation: Json, command: type[Command[Any]], answer: Json) -> None:
    """Add what HTTP says of a command: how a repeat is told from a new one, and how not to wait.

    Args:
        operation: The operation.
        command: The class of the command.
        answer: The response of a success, in the operation.
    """
    described = "`true` where this is the answer to an earlier request with the same `Idempotency-Key`."
    answer["headers"]["Idempotency-Replayed"] = {"description": described, "schema": _STRING}
    key: Json = {"$ref": "#/components/parameters/Idempotency-Key"}
    if command.needs_idempotency_key:
        key = {**component_parameters()["Idempotency-Key"], "required": True}
    operation["parameters"] += [{"$ref": "#/components/parameters/Prefer"}, key]
    operation["responses"][202] = {"$ref": "#/components/responses/Accepted"}
    _add_timeout(operation, command.gateway_timeout_s)


def add_deprecation(operation: Json, contract: Contract) -> None:
    """Add that a contract should no longer be used, until when it is there, and that answers say so.

    Args:
        operation: The operation.
        contract: The contract that its route is derived from.
    """
    if contract.deprecated_at is None:
        return
    said = f"Deprecated since {contract.deprecated_at:%Y-%m-%d}"
    said += f", gone from {contract.sunset_at:%Y-%m-%d} on." if contract.sunset_at is not None else "."
    described = operation.get("description")
    operation["description"] = f"{said}\n\n{described}" if described else said
    operation["deprecated"] = True
    told = {"Deprecation": "Since when, in seconds since 1970 (RFC 9745)."}
    if contract.sunset_at is not None:
        told["Sunset"] = "When it is gone (RFC 8594)."
    if contract.deprecation_url is not None:
        told["Link"] = 'What to read about that, with `rel="deprecation"`.'
    for answer in operation["responses"].values():
        if "headers" in answer:  # the others are shared with contracts that are not deprecated
            answer["headers"] |= {name: {"description": text, "schema": _STRING} for name, text in told.items()}


def _add_timeout(operation: Json, timeout_s: float | None) -> None:
    if timeout_s is not None:
        said = f"The gateway waits {timeout_s:g} s for it."
        described = operation.get("description")
        operation["description"] = f"{described}\n\n{said}" if described else said
