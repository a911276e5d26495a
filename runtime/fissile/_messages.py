"""Messages: commands, queries and events, and the errors that a message declares.

All of them are frozen attrs classes. The type of the reply belongs to the message (`Command[RunReport]`), so that both type checkers
infer what `await bus.execute(RunCode(...))` returns.

Two facts about attrs shape this file. A slotted attrs class is built twice, and the second time `__init_subclass__` gets no
keywords: so each keyword defaults to None, which means "as before". And attrs exceptions compare by identity unless told
otherwise, while a declared error is a value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, ForwardRef, Generic, Literal, Protocol, Self, TypeVar, get_args, get_origin

import attrs

R_co = TypeVar("R_co", covariant=True)
M_co = TypeVar("M_co", covariant=True)


class DeclaredError(Exception):
    """A failure that is part of a contract: a frozen attrs class that a message names in `raises`.

    It crosses a process boundary with its fields and compares by value.

    Args (of the class statement):
        status: The HTTP status that the gateway answers with; 422 unless told.
    """

    status: ClassVar[int] = 422

    def __init_subclass__(cls, *, status: int | None = None) -> None:
        super().__init_subclass__()
        if status is not None:
            cls.status = status

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeclaredError) or type(self) is not type(other):
            return NotImplemented
        return _field_values(self) == _field_values(other)

    def __hash__(self) -> int:
        return hash((type(self), _field_values(self)))

    def __str__(self) -> str:
        fields = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields_of(type(self)))
        return f"{type(self).__name__}({fields})"


def fields_of(cls: type) -> tuple[attrs.Attribute[Any], ...]:
    """Return the fields of an attrs class; the type of a class that is only known at run time cannot say that it is one."""
    return attrs.fields(cls)  # type: ignore[no-any-return]


def _field_values(error: DeclaredError) -> tuple[object, ...]:
    return tuple(getattr(error, field.name) for field in fields_of(type(error)))


class Request(Generic[R_co]):
    """What commands and queries share. Subclass `Command` or `Query`, not this."""

    __slots__ = ()

    declared_errors: ClassVar[tuple[type[DeclaredError], ...]] = ()
    public: ClassVar[bool] = True
    required_scopes: ClassVar[tuple[str, ...]] = ()
    gateway_timeout_s: ClassVar[float | None] = None

    def __init_subclass__(
        cls,
        *,
        raises: tuple[type[DeclaredError], ...] | None = None,
        public: bool | None = None,
        requires: str | tuple[str, ...] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        super().__init_subclass__()
        if raises is not None:
            cls.declared_errors = raises
        if public is not None:
            cls.public = public
        if requires is not None:
            cls.required_scopes = scopes_of(requires)
        if timeout_s is not None:
            cls.gateway_timeout_s = timeout_s


def scopes_of(requires: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes that a contract names, one or several."""
    return (requires,) if isinstance(requires, str) else tuple(requires)


class Command(Request[R_co]):
    """Asks one module to do something: one handler, which returns `R_co` or raises an error named in `raises`.

    Args (of the class statement):
        raises: The declared errors that may come back.
        key: The name of a field, or a function of the command. Commands with equal keys are handled one after the other; commands
            without a key in no particular order.
        public: Whether the gateway offers it; other modules may call it in any case.
        requires: The scopes that its caller has to have, such as `runs:write`.
        timeout_s: How long the gateway waits for it, in seconds; its setting for requests unless told.
        idempotency_key: Whether a client of the gateway may send an `Idempotency-Key`, or has to.
    """

    __slots__ = ()

    order_key: ClassVar[str | Callable[[Any], str] | None] = None
    needs_idempotency_key: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        raises: tuple[type[DeclaredError], ...] | None = None,
        key: str | Callable[[Any], str] | None = None,  # Any: the subclass itself, which has no name here
        public: bool | None = None,
        requires: str | tuple[str, ...] | None = None,
        timeout_s: float | None = None,
        idempotency_key: Literal["accepted", "required"] | None = None,
    ) -> None:
        super().__init_subclass__(raises=raises, public=public, requires=requires, timeout_s=timeout_s)
        if key is not None:
            cls.order_key = key if isinstance(key, str) else staticmethod(key)
        if idempotency_key is not None:
            cls.needs_idempotency_key = idempotency_key == "required"

    @classmethod
    def _as_command(cls) -> tuple[Self, R_co]:
        """Link message and reply for type checkers; never called."""
        raise NotImplementedError


class Query(Request[R_co]):
    """Asks one module for something: one handler, without effects, so that it may be repeated at will.

    Args (of the class statement):
        raises: The declared errors that may come back.
        public: Whether the gateway offers it; other modules may ask it in any case.
        requires: The scopes that its caller has to have, such as `runs:read`.
        timeout_s: How long the gateway waits for it, in seconds; its setting for requests unless told.
        max_age_s: How long a reply may be used again by who asked over HTTP, in seconds; asked anew each time unless told.
    """

    __slots__ = ()

    gateway_max_age_s: ClassVar[float | None] = None

    def __init_subclass__(
        cls,
        *,
        raises: tuple[type[DeclaredError], ...] | None = None,
        public: bool | None = None,
        requires: str | tuple[str, ...] | None = None,
        timeout_s: float | None = None,
        max_age_s: float | None = None,
    ) -> None:
        super().__init_subclass__(raises=raises, public=public, requires=requires, timeout_s=timeout_s)
        if max_age_s is not None:
            cls.gateway_max_age_s = max_age_s

    @classmethod
    def _as_query(cls) -> tuple[Self, R_co]:
        """Link message and reply for type checkers; never called."""
        raise NotImplementedError


class Event:
    """Tells that something happened. It is published to the one topic that names its class."""

    __slots__ = ()


class CommandClass(Protocol[M_co, R_co]):
    """The class of a command, seen so that a type checker can name both the command and its reply."""

    def _as_command(self) -> tuple[M_co, R_co]: ...


class QueryClass(Protocol[M_co, R_co]):
    """The class of a query, seen so that a type checker can name both the query and its reply."""

    def _as_query(self) -> tuple[M_co, R_co]: ...


def reply_type(message: type[Request[Any]]) -> Any:  # Any: a type expression, which has no type of its own
    """Return the reply type that a command or query names in its base class.

    Raises:
        TypeError: The class derives from a bare `Command` or `Query`, or names a type that does not exist.
    """
    for cls in message.__mro__:
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Request):
                (reply,) = get_args(base)
                if isinstance(reply, TypeVar):
                    continue
                return _resolve(reply, cls)
    raise TypeError(
        f"{message.__name__} names no reply type; write `Command[X]` or `Query[X]`, `Command[None]` for none"
    )


def _resolve(annotation: Any, cls: type) -> Any:
    namespace = vars(sys.modules[cls.__module__])
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return eval(annotation, namespace)  # noqa: S307 -- the developer's own annotation, as typing.get_type_hints does
    return annotation
