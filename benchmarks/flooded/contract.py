"""Two commands that take a while: one the processor's, one somebody else's."""

from attrs import frozen

from fissile import Command, Contract

contract = Contract("flooded")


@frozen
class Compute(Command[int]):
    """Use the processor for two milliseconds."""

    number: int


@frozen
class Fetch(Command[int]):
    """Wait for a store that answers in ten milliseconds; the configuration says how many may at a time."""

    number: int
