"""The OpenAPI 3.1 document of a gateway: every route it has, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fissile import Contract, Topic
from fissile._messages import reply_type
from fissile._schemas import INPUT, REPLY, Json, Names, Shapes, summary_of
from fissile_gateway._documents.answers import component_headers, component_responses, problem_schema
from fissile_gateway._documents.contract_routes import ContractRoutes
from fissile_gateway._documents.http_meaning import (
    add_deprecation,
    component_answers,
    component_parameters,
    security_schemes,
)
from fissile_gateway._documents.operation_routes import OPERATION
from fissile_gateway._documents.own_routes import OwnRoutes, mounted
from fissile_gateway._operation import operation_of
from fissile_gateway._routes import Route, derive

if TYPE_CHECKING:
    from quart import Quart

DIALECT = "https://spec.openapis.org/oas/3.1/dialect/base"

_DESCRIPTION = (
    "A command is a POST with a JSON body, a query is a GET with parameters, a topic is a stream of server-sent events. Input is strict: "
    "unknown fields and parameters, keys that are given twice and numbers that JSON does not have are refused.\n\n"
    "Every GET also answers HEAD, and every path OPTIONS. Every error is a problem document (RFC 9457, `application/problem+json`); besides "
    "those named at an operation there are the ones that come before a route is found, listed under the responses of the components. "
    "Every answer carries `X-Request-ID`."
)


def openapi(
    name: str,
    version: str,
    contracts: Iterable[Contract],
    quart: Quart,
    mounts: Mapping[str, object],
) -> Json:
    """Return the OpenAPI document of a gateway.

    Args:
        name: The application's name.
        version: The version of its interface.
        contracts: The contracts from which routes are derived.
        quart: The application that has all routes.
        mounts: Other ASGI applications, by the path below which they answer.
    """
    contracts = tuple(contracts)
    routes = derive(contracts)
    names = Names(contracts)
    replies = Shapes(names, REPLY)
    for reply in _all_replies(routes, quart):
        replies.find(reply)
    inputs = Shapes(names, INPUT, beside=replies)
    from_contracts = ContractRoutes(inputs, replies)
    by_name = {contract.name: contract for contract in contracts}
    paths: dict[str, Json] = {}
    for route in routes:
        operation = from_contracts.operation(route)
        add_deprecation(operation, by_name[route.module])
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    paths |= OwnRoutes(inputs, replies).paths(quart, tuple(paths))
    paths |= mounted(mounts, tuple(paths))
    components: Json = {
        "schemas": dict(
            sorted(
                {"Problem": problem_schema(), "Operation": OPERATION, **replies.components, **inputs.components}.items()
            )
        ),
        "responses": component_answers() | component_responses(),
        "parameters": component_parameters(),
        "headers": component_headers(),
    }
    operations: list[Json] = [one for item in paths.values() for one in item.values() if isinstance(one, dict)]
    if any("security" in one for one in operations):
        components["securitySchemes"] = security_schemes()
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version, "description": _DESCRIPTION},
        "jsonSchemaDialect": DIALECT,
        "tags": _tags(contracts, routes, paths),
        "paths": paths,
        "components": components,
    }


def _all_replies(routes: Iterable[Route], quart: Quart) -> Iterator[Any]:
    """Yield the types of all that is answered."""
    for route in routes:
        if isinstance(route.target, Topic):
            yield from route.target.events
        else:
            yield reply_type(route.target)
            yield from route.target.declared_errors
    for view in quart.view_functions.values():
        told = operation_of(view)
        yield told.reply
        yield from told.raises


def _tags(contracts: Iterable[Contract], routes: Iterable[Route], paths: Mapping[str, Json]) -> list[Json]:
    """Return the tags in use, modules first."""
    described = {contract.name: summary_of(contract) for contract in contracts}
    used = dict.fromkeys(route.module for route in routes)
    for item in paths.values():
        operations: list[Json] = [operation for operation in item.values() if isinstance(operation, dict)]
        for operation in operations:
            used |= dict.fromkeys(operation.get("tags", ()))
    return [{"name": tag} | ({"description": described[tag]} if described.get(tag) else {}) for tag in used]
