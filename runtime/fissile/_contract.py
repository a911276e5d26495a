"""Contracts and topics: what a module lets others import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import attrs
from attrs import field, frozen

from fissile._messages import Command, DeclaredError, Event, Query
from fissile._names import kebab_case

E = TypeVar("E", bound=Event)

DAY_S = 86_400.0


@frozen(eq=False, init=False)
class Topic(Generic[E]):
    """A named log of events, in order per key. Any number of modules subscribe to it.

    Args:
        name: `<contract>.<name>`, such as `orders.placed`.
        events: The classes of the events it carries, one or more.
        key: Gives the key of an event; events with equal keys are handled in the order of their publication.
        retention_s: How long an event is kept for subscribers that come late, in seconds.
    """

    name: str
    events: tuple[type[E], ...]
    key: Callable[[E], str] = field(repr=False)
    retention_s: float = field(repr=False)
    place: tuple[str, int] = field(repr=False)

    def __init__(
        self,
        name: str,
        *events: type[E],
        key: Callable[[E], str],
        retention_s: float = 7 * DAY_S,
    ) -> None:
        caller = sys._getframe(1)
        self.__attrs_init__(name, events, key, retention_s, (caller.f_code.co_filename, caller.f_lineno))


@frozen(eq=False, init=False)
class Contract:
    """What a module lets others import: its name, its messages, its topics and its declared errors.

    Every message and topic defined in the file that creates the contract belongs to it.

    Args:
        name: The name of the module, in kebab-case, such as `code-executor`.
        messages: The commands, queries, events and errors, where the file is not the unit (several contracts in one file).
        topics: The topics, likewise.
    """

    name: str
    import_name: str = field(repr=False)
    place: tuple[str, int] = field(repr=False)
    _messages: tuple[type, ...] | None = field(repr=False)
    _topics: tuple[Topic[Any], ...] | None = field(repr=False)

    def __init__(
        self,
        name: str,
        *,
        messages: Iterable[type] | None = None,
        topics: Iterable[Topic[Any]] | None = None,
    ) -> None:
        caller = sys._getframe(1)
        self.__attrs_init__(
            name,
            caller.f_globals.get("__name__", "__main__"),
            (caller.f_code.co_filename, caller.f_lineno),
            None if messages is None else tuple(messages),
            None if topics is None else tuple(topics),
        )

    @property
    def commands(self) -> tuple[type[Command[Any]], ...]:
        """The commands, in the order of their definition."""
        return tuple(cls for cls in self._classes() if issubclass(cls, Command))

    @property
    def queries(self) -> tuple[type[Query[Any]], ...]:
        """The queries, in the order of their definition."""
        return tuple(cls for cls in self._classes() if issubclass(cls, Query))

    @property
    def events(self) -> tuple[type[Event], ...]:
        """The events, in the order of their definition."""
        return tuple(cls for cls in self._classes() if issubclass(cls, Event))

    @property
    def errors(self) -> tuple[type[DeclaredError], ...]:
        """The declared errors, in the order of their definition."""
        return tuple(cls for cls in self._classes() if issubclass(cls, DeclaredError))

    @property
    def topics(self) -> tuple[Topic[Any], ...]:
        """The topics, in the order of their definition."""
        if self._topics is not None:
            return self._topics
        if self._messages is not None:
            return ()
        found = (value for value in self._namespace().values() if isinstance(value, Topic))
        return tuple(dict.fromkeys(topic for topic in found if topic.place[0] == self.place[0]))

    def name_of(self, message: type) -> str:
        """Return the name of a message of this contract on the wire and in the gateway, such as `code-executor.run-code`."""
        return f"{self.name}.{kebab_case(message.__name__)}"

    def _namespace(self) -> dict[str, Any]:
        module = sys.modules.get(self.import_name)
        return {} if module is None else vars(module)

    def _classes(self) -> tuple[type, ...]:
        if self._messages is not None:
            return self._messages
        found = (value for value in self._namespace().values() if isinstance(value, type))
        return tuple(
            dict.fromkeys(
                cls
                for cls in found
                if cls.__module__ == self.import_name
                and issubclass(cls, (Command, Query, Event, DeclaredError))
                and attrs.has(cls)
            )
        )
