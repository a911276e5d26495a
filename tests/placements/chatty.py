"""A module that prints, and tells who it is: for tests of the processes of a split."""

from __future__ import annotations

import os

from attrs import frozen

from fissile import Command, Contract, Module, ModuleSettings, Query, setting


@frozen
class Chat(Command[None]):
    """Prints so many characters."""

    count: int


@frozen
class Told:
    process: int
    name: str


@frozen
class WhoAreYou(Query[Told]):
    """Tells the process, and the name in its settings."""


contract = Contract("chatty", messages=[Chat, WhoAreYou])
chatty = Module(contract)


@frozen
class ChattySettings(ModuleSettings):
    name: str = setting("nobody", "The name that it tells.")


@chatty.command(Chat, idempotent=True)
async def chat(command: Chat) -> None:
    print("x" * command.count)


@chatty.query(WhoAreYou)
async def who_are_you(query: WhoAreYou, settings: ChattySettings) -> Told:
    return Told(os.getpid(), settings.name)


def named() -> dict[type, object]:
    return {ChattySettings: ChattySettings("somebody")}
