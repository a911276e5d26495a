"""The messages: an event of some 200 bytes in JSON, a command that has many of them published, and a command that takes its time."""

from attrs import frozen

from fissile import Command, Contract, Event, Topic

contract = Contract("feed")


@frozen
class Told(Event):
    """Something was told."""

    key: str
    number: int
    suspends: bool
    text: str


@frozen
class Tell(Command[None]):
    """Publish so many events."""

    count: int
    suspends: bool


@frozen
class Wait(Command[None]):
    """Take 20 ms."""


told = Topic("feed.told", Told, key=lambda event: event.key)

KEYS = 100
"""How many keys there are."""
WAIT_S = 0.02
"""How long a handler of `Wait` waits, in seconds."""

_TEXT = "x" * 140


def event(number: int, *, suspends: bool) -> Told:
    """Return one of the events."""
    return Told(f"key-{number % KEYS}", number, suspends, _TEXT)
