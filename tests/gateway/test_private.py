"""What a contract keeps from the gateway is not there, whoever asks, and other modules use it all the same."""

from __future__ import annotations

from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Query, Topic
from tests.gateway.serving import serving


@frozen
class Open(Command[str]):
    """Ask for what is kept."""


@frozen
class Keep(Command[None], public=False):
    """Nothing for strangers."""


@frozen
class Look(Query[str], public=False):
    """The same."""


@frozen
class Kept(Event):
    name: str


kept = Topic("safe.kept", Kept, key=lambda event: event.name, public=False)
contract = Contract("safe", messages=[Open, Keep, Look, Kept], topics=[kept])


def safe() -> Module:
    module = Module(contract)

    @module.command(Open, idempotent=True)
    async def open_(command: Open, bus: Bus) -> str:
        await bus.execute(Keep())
        return await bus.ask(Look())

    @module.command(Keep, idempotent=True)
    async def keep(command: Keep, bus: Bus) -> None:
        await bus.publish(Kept("a"))

    @module.query(Look)
    async def look(query: Look) -> str:
        return "kept"

    _ = open_, keep, look
    return module


async def test_what_is_not_public_has_no_route() -> None:
    async with serving(safe()) as running:
        answers = [
            await running.client.post("/api/safe/keep", json={}),
            await running.client.get("/api/safe/look"),
            await running.client.get("/api/safe/topics/kept"),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    for answer in answers:  # nor is it named among the routes that there are
        assert answer.json()["detail"].endswith("Its routes are: POST /api/safe/open.")


async def test_other_modules_use_it_all_the_same() -> None:
    async with serving(safe()) as running:
        answer = await running.client.post("/api/safe/open", json={})
    assert answer.json() == "kept"
