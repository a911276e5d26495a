"""The AsyncAPI 3.0 document of an application: what stands in its logs, for programs that take part there.

docs/wire-format.md says the same in prose. A module receives requests on one channel and answers on the channel of replies; a topic is a
channel that the application sends to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fissile._asyncapi_headers import EVENT_HEADERS, HEADERS, OUTCOME_HEADERS, REQUEST_HEADERS
from fissile._contract import Contract, Topic
from fissile._docstrings import prose_of
from fissile._messages import Command, DeclaredError, Query, reply_type
from fissile._requests import REPLIES_TOPIC
from fissile._schemas import WIRE, Json, Names, Shapes, summary_of

JSON = "application/json"
BINDING = "0.5.0"
"""The version of AsyncAPI's Kafka binding."""

_DESCRIPTION = (
    "What stands in the logs of this application. Over Kafka the names of topics and consumer groups begin with a prefix, which the setting "
    "FISSILE_KAFKA_PREFIX names. Bodies are JSON; with FISSILE_WIRE=msgpack they are MessagePack of the same shape."
)
_PREFIX: Json = {"description": "What names on the broker begin with, such as the application's name and a dot."}


def asyncapi(name: str, version: str, contracts: Iterable[Contract], *, only_public: bool = False) -> Json:
    """Return the AsyncAPI document of an application.

    Args:
        name: The application's name.
        version: The version of its interface.
        contracts: Its contracts.
        only_public: Leave out what a contract keeps from the gateway (`public=False`).
    """
    contracts = tuple(contracts)
    document = _Document(name, Names(contracts))
    for contract in contracts:
        requests = [request for request in (*contract.commands, *contract.queries) if request.public or not only_public]
        topics = [topic for topic in contract.topics if topic.public or not only_public]
        if requests or topics:
            document.add(contract, requests, topics)
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:fissile:{name}",
        "info": {"title": name, "version": version, "description": _DESCRIPTION},
        "defaultContentType": JSON,
        "channels": document.channels,
        "operations": document.operations,
        "components": {
            "messages": document.messages,
            "messageTraits": HEADERS,
            "schemas": dict(sorted(document.shapes.components.items())),
        },
    }


class _Document:
    def __init__(self, application: str, names: Names) -> None:
        self.shapes = Shapes(names, WIRE, is_draft_07=True)
        self.channels: Json = {}
        self.operations: Json = {}
        self.messages: Json = {}
        self._prefix = f"{application}."

    def add(self, contract: Contract, requests: list[type[Any]], topics: list[Topic[Any]]) -> None:
        tags: list[Json] = [{"name": contract.name}]
        if summary := summary_of(contract):
            tags[0]["description"] = summary
        if requests:
            channel = f"{contract.name}.requests"
            self._add_channel(channel, f"Commands, queries and cancellations to {contract.name}.", tags)
            self._add_message(channel, "cancellation", _CANCELLATION)
            for request in requests:
                self._add_request(contract, channel, request, tags)
        for topic in topics:
            self._add_topic(contract, topic, tags)

    def _add_request(
        self, contract: Contract, channel: str, request: type[Command[Any] | Query[Any]], tags: list[Json]
    ) -> None:
        name = contract.name_of(request)
        kind = "command" if issubclass(request, Command) else "query"
        message = self._message(request, name, REQUEST_HEADERS)
        message["tags"] = [{"name": kind}]
        message["bindings"] = {"kafka": {"key": _key_of(request), "bindingVersion": BINDING}}
        self._add_message(channel, name, message)
        self._ensure_replies()
        answers = [self._add_reply(name, request)]
        answers += [self._add_declared(error) for error in request.declared_errors]
        answers += ["failed", "invalid"]
        self.operations[name] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": prose_of(request).summary or request.__name__,
            "tags": tags,
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"}],
            "bindings": {"kafka": {"groupId": self._group(contract.name), "bindingVersion": BINDING}},
            "reply": {
                "address": {
                    "location": "$message.header#/fissile-reply-to",
                    "description": "Topic and partition of the reply; where the header is missing nobody waits, and there is none.",
                },
                "channel": {"$ref": f"#/channels/{REPLIES_TOPIC}"},
                "messages": [{"$ref": f"#/channels/{REPLIES_TOPIC}/messages/{answer}"} for answer in answers],
            },
        }
        if request.required_scopes:
            self.operations[name]["description"] = f"Requires the scopes {', '.join(request.required_scopes)}."

    def _add_topic(self, contract: Contract, topic: Topic[Any], tags: list[Json]) -> None:
        configuration = {"cleanup.policy": ["delete"], "retention.ms": int(topic.retention_s * 1000)}
        self._add_channel(topic.name, f"Events of {contract.name}, in order per key.", tags, configuration)
        names: list[str] = []
        for event in topic.events:
            name = contract.name_of(event)
            names.append(name)
            message = self._message(event, name, EVENT_HEADERS)
            key: Json = {"type": "string", "description": "What the topic's key function gives; it decides the order."}
            message["bindings"] = {"kafka": {"key": key, "bindingVersion": BINDING}}
            self._add_message(topic.name, name, message)
        # A message may have the name of a topic, but not in one document.
        operation = topic.name if topic.name not in self.operations else f"{topic.name}.events"
        self.operations[operation] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "summary": f"Publish to {topic.name}.",
            "tags": tags,
            "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"} for name in names],
        }

    # --- replies -----------------------------------------------------------------------------------------------------

    def _ensure_replies(self) -> None:
        if REPLIES_TOPIC not in self.channels:
            described = "Outcomes. Each process reads one partition of it, by direct assignment."
            self._add_channel(REPLIES_TOPIC, described, [{"name": REPLIES_TOPIC}])
            self._add_message(REPLIES_TOPIC, "failed", _FAILED)
            self._add_message(REPLIES_TOPIC, "invalid", _INVALID)

    def _add_reply(self, name: str, request: type[Command[Any] | Query[Any]]) -> str:
        message: Json = {
            "name": f"{name}.reply",
            "title": f"Reply to {request.__name__}",
            "summary": f"What {name} replied; `fissile-outcome` is `replied`.",
            "contentType": JSON,
            "traits": [{"$ref": f"#/components/messageTraits/{OUTCOME_HEADERS}"}],
            "payload": self.shapes.of(reply_type(request)),
        }
        self._add_message(REPLIES_TOPIC, f"{name}.reply", message)
        return f"{name}.reply"

    def _add_declared(self, error: type[DeclaredError]) -> str:
        name = self.shapes.name_of(error)
        message = self._message(error, f"declared:{error.__name__}", OUTCOME_HEADERS)
        message["summary"] = f"{message['summary']} `fissile-outcome` is `declared:{error.__name__}`."
        self._add_message(REPLIES_TOPIC, name, message)
        return name

    # --- parts -------------------------------------------------------------------------------------------------------

    def _message(self, cls: type, name: str, headers: str) -> Json:
        prose = prose_of(cls)
        message: Json = {"name": name, "title": cls.__name__, "summary": prose.summary or f"{cls.__name__}."}
        if prose.description:
            message["description"] = prose.description
        traits = [{"$ref": f"#/components/messageTraits/{headers}"}]
        return message | {"contentType": JSON, "traits": traits, "payload": self.shapes.of(cls)}

    def _add_channel(self, name: str, described: str, tags: list[Json], configuration: Json | None = None) -> None:
        kafka: Json = {"topic": f"{self._prefix}{name}", "bindingVersion": BINDING}
        if configuration:
            kafka["topicConfiguration"] = configuration
        self.channels[name] = {
            "address": f"{{prefix}}{name}",
            "description": described,
            "messages": {},
            "parameters": {"prefix": {**_PREFIX, "default": self._prefix}},
            "tags": tags,
            "bindings": {"kafka": kafka},
        }

    def _add_message(self, channel: str, name: str, message: Json) -> None:
        self.messages[name] = message
        self.channels[channel]["messages"][name] = {"$ref": f"#/components/messages/{name}"}

    def _group(self, module: str) -> Json:
        return {"type": "string", "enum": [f"{self._prefix}{module}"]}


def _key_of(request: type[Command[Any] | Query[Any]]) -> Json:
    key = request.order_key if issubclass(request, Command) else None
    if key is None:
        return {"type": "string", "description": "The message's id; the order is free."}
    shown = f"The field {key}" if isinstance(key, str) else "What the contract's key function gives"
    return {"type": "string", "description": f"{shown}: commands of equal keys are handled one after the other."}


_CANCELLATION: Json = {
    "name": "cancellation",
    "title": "Cancellation",
    "summary": "The caller does not wait any more. It has the key of the request, stands in the same partition behind it, and has no body.",
    "headers": {
        "type": "object",
        "properties": {"fissile-cancel": {"type": "string", "description": "The correlation of the request."}},
        "required": ["fissile-cancel"],
    },
    "payload": {"type": "null"},
}
_FAILED: Json = {
    "name": "failed",
    "title": "Failed",
    "summary": "The handler raised what its message does not declare; `fissile-outcome` is `failed`.",
    "contentType": JSON,
    "traits": [{"$ref": f"#/components/messageTraits/{OUTCOME_HEADERS}"}],
    "payload": {
        "type": "object",
        "properties": {
            "message_id": {"type": "string"},
            "error_type": {"type": "string"},
            "error_text": {"type": "string"},
        },
        "required": ["message_id", "error_type", "error_text"],
    },
}
_INVALID: Json = {
    "name": "invalid",
    "title": "Invalid",
    "summary": "The message could not be read; the body says why. `fissile-outcome` is `invalid`.",
    "contentType": "text/plain",
    "traits": [{"$ref": f"#/components/messageTraits/{OUTCOME_HEADERS}"}],
    "payload": {"type": "string"},
}
