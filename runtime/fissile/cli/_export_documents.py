"""The API documents as files: as the gateway serves them, indented, in the order of the contracts."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec

from fissile._application import GATEWAY_PACKAGE, Application
from fissile._contract import Contract
from fissile._errors import Fault, StartupFailed
from fissile._module import Module
from fissile._placement import GATEWAY
from fissile._settings import variable_name
from fissile.cli._ls import retry_shown


def openapi_text(application: Application) -> str:
    """Return the OpenAPI document of the application's gateway.

    Raises:
        StartupFailed: The gateway is not installed, or contracts or routes cannot be imported.
    """
    contracts = _contracts(application)
    try:
        documents = import_module(f"{GATEWAY_PACKAGE}._documents.files")
    except ModuleNotFoundError as error:
        fault = Fault(
            f"The gateway is not installed: {error}.", "fissile export", "Install it: pip install 'fissile[gateway]'."
        )
        raise StartupFailed((fault,)) from None
    return _text(documents.openapi_of(application.name, contracts, application.sources))


def asyncapi_text(application: Application) -> str:
    """Return the AsyncAPI document of the application, with what is not public, and with what only its modules know: their retry policies.

    Raises:
        StartupFailed: The settings have faults, or modules cannot be imported.
    """
    from fissile._asyncapi import asyncapi  # the other exports do without

    found = application.sources.find(variable_name("api_version", GATEWAY))
    document = asyncapi(application.name, str(found[0]) if found else "1", _contracts(application))
    faults: list[Fault] = []
    modules = application.import_modules(faults, with_gateway=False)
    if faults:
        raise StartupFailed(tuple(faults))
    for module in modules.values():
        _add_policies(document["operations"], module)
    return _text(document)


def _add_policies(operations: dict[str, Any], module: Module) -> None:  # Any: JSON
    """Say how often what nobody waits for is tried, and who subscribes to a topic."""
    for handling in module.handlers:
        message: type[Any] = handling.message
        if message in module.contract.commands:
            operations[module.contract.name_of(message)]["x-fissile-retry"] = retry_shown(handling.retry)
    for subscription in module.subscriptions:
        channel = {"$ref": f"#/channels/{subscription.topic.name}"}
        told = {
            "module": module.name,
            "handler": subscription.function.__name__,
            "retry": retry_shown(subscription.retry),
        }
        for operation in operations.values():
            if operation["action"] == "send" and operation["channel"] == channel:
                operation.setdefault("x-fissile-subscribers", []).append(told)


def _contracts(application: Application) -> tuple[Contract, ...]:
    faults: list[Fault] = []
    contracts = application.import_contracts(faults)
    if faults:
        raise StartupFailed(tuple(faults))
    return tuple(contracts.values())


def _text(document: dict[str, Any]) -> str:  # Any: JSON
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
