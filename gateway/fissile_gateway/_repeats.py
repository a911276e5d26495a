"""Commands that come with an Idempotency-Key: done once, and answered the same each time.

The command's id follows from who sends it, its route and the key. So a module with a database gives the first outcome for a repeat, whatever
has become of the gateway, and on whichever replica the repeat arrives. Beside that the gateway keeps its answers for a time: that spares the
module the repeat, and is all there is where a module has no database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

import msgspec

from fissile import Command, DeclaredError, InvalidMessage
from fissile_gateway._answers import Answer
from fissile_gateway._kept import Kept
from fissile_gateway._problems import MEDIA_TYPE, RETRY_AFTER_S, Problem, ProblemError, problem_of
from fissile_gateway._settings import GatewaySettings

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Repeatable(msgspec.Struct, frozen=True):
    """A command that may come again.

    Attributes:
        id: Its id, the same for each repeat.
        digest: Of its content.
    """

    id: str
    digest: bytes


class _Done(msgspec.Struct, frozen=True, eq=False):
    digest: bytes
    answer: Answer


class Repeats:
    """The commands with a key that a gateway has in hand, or has answered.

    Args:
        settings: For how long, and how much.
        now: The clock, in seconds.
    """

    def __init__(self, settings: GatewaySettings, now: Callable[[], float]) -> None:
        self._done: Kept[_Done] = Kept(settings.idempotency_keep_s, settings.idempotency_bytes, now)
        self._running: dict[str, bytes] = {}

    def begin(self, command: Repeatable) -> Answer | None:
        """Return the answer to a command that was done before, or None if it is new here: then `run` or `forget` has to follow.

        Raises:
            ProblemError: 422: the key came with another command before. 409: the first one is still running.
        """
        done = self._done.get(command.id)
        known = done.digest if done is not None else self._running.get(command.id)
        if known is None:
            self._running[command.id] = command.digest
            return None
        if known != command.digest:
            raise key_reused()
        if done is None:
            raise still_running()
        return done.answer

    async def run(self, command: Repeatable, act: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do a command that has begun, and keep its answer if it is final.

        Args:
            command: The command.
            act: Does it.
        """
        try:
            answer = await act()
        finally:
            self.forget(command)
        if answer.is_final:
            self._done.put(command.id, _Done(command.digest, answer), len(answer.body))
        return answer

    def forget(self, command: Repeatable) -> None:
        """Forget that a command has begun."""
        self._running.pop(command.id, None)


def repeatable(principal: str, route: str, key: str, command: Command[Any]) -> Repeatable:
    """Return what a command is known by when it comes again.

    Args:
        principal: Who sends it; the same key of another is another command.
        route: The name of its message.
        key: The key.
        command: The command.
    """
    parts = [part.encode() for part in (principal, route, key)]
    name = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    digest = blake2b(_canonical(command), digest_size=16).digest()
    return Repeatable(f"key-{blake2b(name, digest_size=16).hexdigest()}", digest)


def answer_of(error: Exception, command_id: str | None, request_id: str) -> Answer:
    """Return the answer to a command that has failed.

    Args:
        error: Why.
        command_id: Its id, if it follows from a key.
        request_id: The id of the request.
    """
    problem = problem_of(error)
    if (
        command_id is not None
        and isinstance(error, InvalidMessage)
        and f"the id {command_id!r} was used before" in error.reason
    ):
        problem = key_reused().problem  # the module knows it from before this gateway did
    is_final = isinstance(error, DeclaredError)
    return Answer(problem.status, problem.document(request_id), MEDIA_TYPE, problem.headers, is_final)


def key_reused() -> ProblemError:
    """Return the error of a key that came with another command before."""
    detail = "The Idempotency-Key was used before, for a command with other content. Make a new key for a new command. Nothing happened."
    return ProblemError(Problem(422, "idempotency-key-reused", detail))


def still_running(path: str | None = None) -> ProblemError:
    """Return the error of a repeat whose first one has not ended.

    Args:
        path: The URL of the operation that it is, if it is one.
    """
    detail = "The first request with this Idempotency-Key is still in progress. Send it again later to get its outcome."
    headers = (("retry-after", str(RETRY_AFTER_S)), *(() if path is None else (("location", path),)))
    return ProblemError(Problem(409, "idempotency-key-in-use", detail, headers=headers))
