"""The view of a command: POST, with an Idempotency-Key, without waiting, or, mostly, neither."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import msgspec
from quart import Blueprint, Response

from fissile import Bus, Command
from fissile._messages import reply_type
from fissile_gateway._answers import JSON, Answer, View, check_media_type
from fissile_gateway._counted import holder_key
from fissile_gateway._documents.operation_routes import CANCEL, SHOW
from fissile_gateway._exchange import Exchange, Scope
from fissile_gateway._operation import operation
from fissile_gateway._operations import PATH, Operation, Operations, ended, headers_of, unknown
from fissile_gateway._operations_elsewhere import Siblings
from fissile_gateway._preferences import Preferences, key_missing, parse_key, parse_prefer
from fissile_gateway._present import presenter
from fissile_gateway._principal import principal_of
from fissile_gateway._problems import ProblemError
from fissile_gateway._repeats import Repeatable, Repeats, answer_of, repeatable, still_running
from fissile_gateway._responses import exchange
from fissile_gateway._strict import StrictDecoder
from fissile_gateway._twin import Twins

_JSON = JSON.encode()
_REPLAYED = ("idempotency-replayed", "true")
_NOBODY_WAITS = Preferences()
_TO_ANSWER_S = 1.0
"""What is left of a request's time when its client has waited for an operation: the answer has to tell where that is."""


class Commands:
    """Makes the views of commands.

    Args:
        bus: What they call; None where that is the bus of each request, which acts for who asks.
        repeats: The commands with a key.
        operations: Those whose clients do not wait.
        twins: Makes the twins; shared by all decoders of an application.
    """

    def __init__(self, bus: Bus | None, repeats: Repeats, operations: Operations, twins: Twins) -> None:
        self._bus = bus
        self._repeats = repeats
        self._operations = operations
        self._twins = twins

    def view(self, command: type[Command[Any]], name: str) -> View:
        """Make the view of a command.

        Args:
            command: Its class.
            name: The name of its message.
        """
        decode = StrictDecoder[Command[Any]](command, self._twins).decode
        bus = self._bus
        answers = reply_type(command) not in (None, type(None))
        present = presenter(reply_type(command))
        needs_key = command.needs_idempotency_key

        async def act(
            caller: Bus, message: Command[Any], command_id: str | None, this: Exchange, scope: Scope
        ) -> Answer:
            try:
                reply = await caller.execute(message, id=command_id)
                return Answer(200, present(reply), JSON) if answers else Answer(204)
            except Exception as error:  # noqa: BLE001 -- every error has an answer
                this.failure = error
                other = this.gateway.on_failure(scope, error)
                return answer_of(error if other is None else ProblemError(other), command_id, this.request_id)

        async def view(this: Exchange) -> Answer:
            if this.media_type != _JSON or this.encoding is not None:
                check_media_type(this.media_type or b"", this.encoding or b"")
            key = this.idempotency_key
            if key is None and needs_key:
                raise key_missing(name)
            body = this.body
            message = decode(body if isinstance(body, bytes) else await body)
            if key is None and this.prefer is None:
                reply = await (bus or this.bus).execute(message)
                return Answer(200, present(reply), JSON) if answers else Answer(204)
            principal = principal_of(this)
            known = None if key is None else repeatable(principal, name, parse_key(key), message)
            command_id = None if known is None else known.id
            do = partial(act, bus or this.bus, message, command_id, this, this.asgi)
            return await self._answer(this, name, principal, known, do)

        return view

    async def _answer(
        self, this: Exchange, name: str, principal: str, known: Repeatable | None, act: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Answer a command that has a key, or whose client does not wait."""
        prefers = _NOBODY_WAITS if this.prefer is None else parse_prefer(this.prefer)
        tasks = this.gateway.listeners
        # Mounted in another application there is nobody to leave it to.
        is_async = prefers.is_async and tasks is not None and self._operations.are_offered
        if known is not None:
            running = self._operations.running(known.id)
            try:
                before = self._repeats.begin(known)
            except ProblemError as error:
                if running is None or error.problem.status != 409:
                    raise
                if is_async:
                    return await _accepted(running, prefers, this)
                raise still_running(running.path) from None
            if before is not None:
                return msgspec.structs.replace(before, headers=(*before.headers, _REPLAYED))
            act = partial(self._repeats.run, known, act)
        if is_async and tasks is not None:
            try:
                command_id = None if known is None else known.id
                operation = self._operations.start(tasks, principal, holder_key(this), name, command_id, act)
            except ProblemError as error:
                if error.problem.status == 429:
                    this.gateway.protection.limited += 1
                if known is not None:
                    self._repeats.forget(known)
                raise
            this.release()  # the bound of operations counts it from here on, and is lower
            return await _accepted(operation, prefers, this)
        return await act()


def operations_routes(operations: Siblings) -> Blueprint:
    """Return the routes that tell of operations, and cancel them.

    Args:
        operations: Those of this process, and of the other workers of its port.
    """
    blueprint = Blueprint("operations", __name__)

    async def tell(operation_id: str, *, cancel: bool) -> Response:
        told = await operations.tell(operation_id, principal_of(exchange()), cancel=cancel)
        if told is None:
            raise unknown()
        if told.had_ended:
            raise ended(told.state)
        return Response(told.document, 200, {"cache-control": "no-store", **headers_of(told.state)}, content_type=JSON)

    @blueprint.get(f"{PATH}/<operation_id>")
    @operation(openapi=SHOW)
    async def show(operation_id: str) -> Response:
        """Tell what has become of a command whose client does not wait."""
        return await tell(operation_id, cancel=False)

    @blueprint.delete(f"{PATH}/<operation_id>")
    @operation(openapi=CANCEL)
    async def cancel(operation_id: str) -> Response:
        """Cancel such a command, and wait until it has ended."""
        return await tell(operation_id, cancel=True)

    return blueprint


async def _accepted(operation: Operation, prefers: Preferences, this: Exchange) -> Answer:
    """Say that a command is in progress; or its outcome, where it comes within the time that the client waits."""
    this.leave_circuit()  # that it has begun says nothing of the module
    applied = "respond-async"
    if prefers.wait_s is not None:
        wait_s = _wait_s(prefers.wait_s, this)
        applied += f", wait={wait_s:.0f}"
        with anyio.move_on_after(wait_s):
            await operation.ended.wait()
        if operation.answer is not None:
            return operation.answer
    headers = headers_of(operation.state) | {"location": operation.path, "preference-applied": applied}
    return Answer(202, operation.document(), JSON, tuple(headers.items()))


def _wait_s(asked_s: float, this: Exchange) -> float:
    """Return for how long a request waits, in whole seconds: as its client asks, and no longer than its own time allows."""
    left_s = this.scope.deadline - anyio.current_time()
    longest_s = left_s - min(_TO_ANSWER_S, left_s / 10)
    return asked_s if asked_s <= longest_s else max(0.0, math.floor(longest_s))
