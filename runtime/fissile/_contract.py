"""Contracts and topics: what a module lets others import."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar

from fissile._messages import Command, DeclaredError, Event, Query, scopes_of
from fissile._names import kebab_case

E = TypeVar("E", bound=Event)
C = TypeVar("C")

DAY_S = 86_400.0
_URL = re.compile(r"[!#-;=?-~]+")


class Topic(Generic[E]):
    """A named log of events, in order per key. Any number of modules subscribe to it.

    Args:
        name: `<contract>.<name>`, such as `orders.placed`.
        events: The classes of the events it carries, one or more.
        key: Gives the key of an event; events with equal keys are handled in the order of their publication.
        retention_s: How long an event is kept for subscribers that come late, in seconds.
        public: Whether the gateway offers it as a stream.
        requires: The scopes that who reads the stream has to have, such as `runs:read`.
    """

    def __init__(
        self,
        name: str,
        *events: type[E],
        key: Callable[[E], str],
        retention_s: float = 7 * DAY_S,
        public: bool = True,
        requires: str | tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.events = events
        self.key = key
        self.retention_s = retention_s
        self.public = public
        self.required_scopes = scopes_of(requires)
        self.place = _caller_place()

    def __repr__(self) -> str:
        return f"<Topic {self.name}: {', '.join(event.__name__ for event in self.events)}>"


class Contract:
    """What a module lets others import: its name, its messages, its topics and its declared errors.

    Every message and topic defined in the file that creates the contract belongs to it.

    Args:
        name: The name of the module, in kebab-case, such as `code-executor`.
        messages: The commands, queries, events and errors, where the file is not the unit (several contracts in one file).
        topics: The topics, likewise.
        version: The version of the contract. Several may be served side by side, each by a module of its own; from 2 on it is part of the name
            (`orders-v2`), and of the gateway's paths (`/api/v2/orders/…`).
        deprecated: Since or from when it should no longer be used; the gateway tells clients (RFC 9745).
        sunset: When it is expected to go; the gateway tells clients (RFC 8594).
        deprecation_url: Where clients read what to do instead.

    A date means its beginning in UTC.

    Attributes:
        name: The name of the module, with the version from 2 on.
        base_name: The name without the version.
        deprecated_at: Since or from when it is deprecated, in UTC; None if it is not.
        sunset_at: When it is expected to go, in UTC; None where that is not known.

    Raises:
        ValueError: The version is below 1, a time has no time zone, or there is a sunset before the deprecation, or without one.
    """

    def __init__(
        self,
        name: str,
        *,
        messages: Iterable[type] | None = None,
        topics: Iterable[Topic[Any]] | None = None,
        version: int = 1,
        deprecated: date | None = None,
        sunset: date | None = None,
        deprecation_url: str | None = None,
    ) -> None:
        if version < 1:
            raise ValueError(f"the version of the contract {name!r} is {version}; it has to be 1 or more")
        self.base_name = name
        self.version = version
        self.name = name if version == 1 else f"{name}-v{version}"
        self.deprecated_at = _moment(name, deprecated)
        self.sunset_at = _moment(name, sunset)
        self.deprecation_url = deprecation_url
        if deprecation_url is not None and not _URL.fullmatch(deprecation_url):
            raise ValueError(
                f"the contract {name!r} names {deprecation_url!r}, which is no URL that can stand in a field of HTTP"
            )
        if self.sunset_at is not None and (self.deprecated_at is None or self.sunset_at < self.deprecated_at):
            raise ValueError(f"the contract {name!r} has a sunset, and is not deprecated before it; say since when")
        self.place = _caller_place()
        self.import_name: str = sys._getframe(1).f_globals.get("__name__", "__main__")
        self._messages = None if messages is None else tuple(messages)
        self._topics = None if topics is None else tuple(topics)

    @property
    def is_deprecated(self) -> bool:
        """Whether it should no longer be used, now or from a time that is told."""
        return self.deprecated_at is not None

    @property
    def has_file_of_its_own(self) -> bool:
        """Whether everything in its file belongs to it."""
        return self._messages is None

    def __repr__(self) -> str:
        return f"<Contract {self.name}>"

    @property
    def commands(self) -> tuple[type[Command[Any]], ...]:
        """The commands, in the order of their definition."""
        return self._classes(Command)

    @property
    def queries(self) -> tuple[type[Query[Any]], ...]:
        """The queries, in the order of their definition."""
        return self._classes(Query)

    @property
    def events(self) -> tuple[type[Event], ...]:
        """The events, in the order of their definition."""
        return self._classes(Event)

    @property
    def errors(self) -> tuple[type[DeclaredError], ...]:
        """The declared errors, in the order of their definition."""
        return self._classes(DeclaredError)

    @property
    def topics(self) -> tuple[Topic[Any], ...]:
        """The topics, in the order of their definition."""
        if self._topics is not None:
            return self._topics
        if self._messages is not None:
            return ()
        found: list[Topic[Any]] = [value for value in self._namespace() if isinstance(value, Topic)]
        return tuple(dict.fromkeys(topic for topic in found if topic.place[0] == self.place[0]))

    def name_of(self, message: type) -> str:
        """Return the name of a message of this contract on the wire and in the gateway, such as `code-executor.run-code`."""
        return f"{self.name}.{kebab_case(message.__name__)}"

    def _namespace(self) -> tuple[Any, ...]:
        module = sys.modules.get(self.import_name)
        return () if module is None else tuple(vars(module).values())

    def _classes(self, base: type[C]) -> tuple[type[C], ...]:
        if self._messages is not None:
            candidates: Iterable[Any] = self._messages
        else:
            candidates = (
                value for value in self._namespace() if getattr(value, "__module__", None) == self.import_name
            )
        found = (value for value in candidates if isinstance(value, type) and issubclass(value, base))
        return tuple(dict.fromkeys(found))


def _moment(name: str, day: date | None) -> datetime | None:
    if day is None:
        return None
    if not isinstance(day, datetime):
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    if day.tzinfo is None:
        raise ValueError(
            f"the contract {name!r} names the time {day}, which has no time zone; write datetime(…, tzinfo=UTC)"
        )
    return day.astimezone(UTC)


def _caller_place() -> tuple[str, int]:
    """Return the file and the line from which the constructor was called that calls this."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename, frame.f_lineno
