"""A module whose contract says who may call and how HTTP is to treat it; and that writes markup into its docstrings."""

from __future__ import annotations

from datetime import date

from attrs import frozen

from fissile import Command, Contract, Event, Module, Query, Topic

contract = Contract("guarded", deprecated=date(2026, 1, 31), sunset=date(2027, 1, 31))


@frozen
class Leaf:
    """Of the same name as one of `everything`."""

    width: int


@frozen
class Pay(Command[None], requires="money:write", idempotency_key="required", timeout_s=5):
    """Pay <script>alert(1)</script>."""

    amount: int


@frozen
class Balance(Query[Leaf], requires="money:read", max_age_s=60):
    """Tell what is left."""


@frozen
class Paid(Event):
    amount: int


payments: Topic[Paid] = Topic(
    "guarded.payments", Paid, key=lambda event: str(event.amount), requires=("money:read", "audit")
)

module = Module(contract)


@module.command(Pay, idempotent=True)
async def pay(command: Pay) -> None:
    return None


@module.query(Balance)
async def balance(query: Balance) -> Leaf:
    return Leaf(1)
