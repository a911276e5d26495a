"""Operations: commands whose clients do not wait (`Prefer: respond-async`), with a URL each that tells what has become of it.

An operation is a waiting call like any other, made by a task of the gateway instead of that of a request. So it has one outcome, is never
retried behind its client's back, and is cancelled when its client says so. It is known to the process that began it, and only as long as that
runs; other workers of the same port ask it (`_operations_elsewhere.py`). What outlives all is the command's Idempotency-Key (`_repeats.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup

from fissile_gateway._answers import Answer
from fissile_gateway._kept import Kept
from fissile_gateway._problems import RETRY_AFTER_S, Problem, ProblemError, deadline_exceeded
from fissile_gateway._routes import PREFIX
from fissile_gateway._settings import GatewaySettings
from fissile_gateway._shares import Shares

State = Literal["running", "succeeded", "failed", "cancelled"]

PATH = f"{PREFIX}/operations"
_OK = 400


class Operation(msgspec.Struct, eq=False):
    """One command whose client does not wait.

    Attributes:
        id: Its id, which nobody can guess.
        principal: Who began it; nobody else is told of it.
        command: The name of its message.
        answer: What its client would have got for waiting; None as long as it runs.
        is_cancelled: Whether its client has cancelled it.
        ended: Set when it has ended.
        scope: Cancels it.
    """

    id: str
    principal: str
    command: str
    answer: Answer | None = None
    is_cancelled: bool = False
    ended: anyio.Event = msgspec.field(default_factory=anyio.Event)
    scope: anyio.CancelScope = msgspec.field(default_factory=anyio.CancelScope)

    @property
    def path(self) -> str:
        """The URL that tells what has become of it."""
        return f"{PATH}/{self.id}"

    @property
    def state(self) -> State:
        """What has become of it."""
        if not self.ended.is_set():
            return "running"
        if self.answer is None:
            return "cancelled"
        return "succeeded" if self.answer.status < _OK else "failed"

    def document(self) -> bytes:
        """Return what its client is told: its state, and the reply or the problem where it has ended."""
        told: dict[str, Any] = {
            "id": self.id,
            "command": self.command,
            "state": self.state,
        }  # Any: whatever JSON can say
        if self.answer is not None:
            told["status"] = self.answer.status
            told["problem" if self.state == "failed" else "reply"] = msgspec.Raw(self.answer.body or b"null")
        return msgspec.json.encode(told)


class Told(msgspec.Struct, frozen=True):
    """What is told of an operation.

    Attributes:
        state: What has become of it.
        document: The same, and its outcome, as JSON.
        had_ended: Whether it was to be cancelled and had ended otherwise.
    """

    state: State
    document: bytes
    had_ended: bool = False


class Operations:
    """The operations of a gateway.

    Attributes:
        are_offered: Whether there are any; otherwise a command is answered when it is done.

    Args:
        settings: How many, how long, and for how long they are kept.
        now: The clock, in seconds.
    """

    def __init__(self, settings: GatewaySettings, now: Callable[[], float]) -> None:
        self.are_offered = True
        self._timeout_s = settings.operation_timeout_s
        self._running: dict[str, Operation] = {}
        most, of_one, name = (
            settings.operations_at_once,
            settings.operations_per_client,
            "FISSILE_OPERATIONS_PER_CLIENT",
        )
        self._shares: Shares[Operation] = Shares(most, of_one, name, "operations", "operations are in progress")
        self._ended: Kept[Operation] = Kept(settings.operation_keep_s, settings.operation_bytes, now)
        self._idle = anyio.Event()

    async def tell(self, operation_id: str, principal: str, *, cancel: bool = False) -> Told | None:
        """Return what has become of an operation; None if there is none, or it is another's.

        Args:
            operation_id: The operation.
            principal: Who wants to know.
            cancel: Whether it is to be cancelled; then it has ended when this returns, and may have come to its outcome meanwhile.
        """
        operation = self._running.get(operation_id) or self._ended.get(operation_id)
        if operation is None or operation.principal != principal:
            return None
        had_ended = cancel and operation.state in ("succeeded", "failed")
        if cancel and not had_ended:
            operation.is_cancelled = True
            operation.scope.cancel()
            await operation.ended.wait()
        return Told(operation.state, operation.document(), had_ended)

    def running(self, operation_id: str) -> Operation | None:
        """Return an operation that has not ended."""
        return self._running.get(operation_id)

    def start(
        self,
        tasks: TaskGroup,
        principal: str,
        client: str,
        command: str,
        command_id: str | None,
        act: Callable[[], Awaitable[Answer]],
    ) -> Operation:
        """Begin an operation.

        Args:
            tasks: Where it runs.
            principal: Who begins it.
            client: For whom it is counted.
            command: The name of its message.
            command_id: The id that follows from its key, if it has one.
            act: Does it; raises nothing.

        Raises:
            ProblemError: 503: there are too many. 429: this client has too many.
        """
        problem = self._shares.refusal(client)
        if problem is not None:
            raise ProblemError(problem)
        operation = Operation(command_id or secrets.token_hex(16), principal, command)
        self._running[operation.id] = operation
        self._shares.take(operation, client)
        tasks.start_soon(self._run, operation, act)
        return operation

    async def _run(self, operation: Operation, act: Callable[[], Awaitable[Answer]]) -> None:
        try:
            operation.scope.deadline = anyio.current_time() + self._timeout_s
            with operation.scope:
                operation.answer = await act()
            if operation.answer is None and not operation.is_cancelled:
                late = deadline_exceeded(self._timeout_s)
                operation.answer = Answer(late.status, late.document(""), is_final=False)
        finally:
            del self._running[operation.id]
            self._shares.leave(operation)
            self._ended.put(operation.id, operation, 0 if operation.answer is None else len(operation.answer.body))
            operation.ended.set()
            if not self._running:
                self._idle.set()

    async def finish(self) -> None:
        """Wait until no operation is in progress."""
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()


def headers_of(state: State) -> dict[str, str]:
    """Return the fields of an answer that tells of an operation, besides that it must not be stored."""
    return {"retry-after": str(RETRY_AFTER_S)} if state == "running" else {}


def unknown() -> ProblemError:
    """Return the error of an operation that does not exist, or is another's."""
    detail = (
        "There is no such operation here: it has ended some time ago, or the gateway that had it has been restarted or is another one. "
        "Send the command again with its Idempotency-Key to get its outcome."
    )
    return ProblemError(Problem(404, "unknown-operation", detail))


def ended(state: State) -> ProblemError:
    """Return the error of an operation that is to be cancelled and has ended otherwise."""
    return ProblemError(Problem(409, "operation-ended", f"The operation has {state}; there is nothing to cancel."))
