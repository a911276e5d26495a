"""`fissile call`: execute one command or ask one query, in this process or over a shared bus, and print the reply as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

import anyio
import attrs
import msgspec
from cyclopts import Parameter

from fissile._app import App
from fissile._contract import Contract
from fissile._identity import Identity
from fissile._logging import adopt_structlog, leaves, set_up_logging
from fissile._messages import Command, DeclaredError, Query, Request, fields_of, in_words
from fissile._names import kebab_case
from fissile.cli._arguments import parse
from fissile.cli._context import Context, Whole
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import Output, encode_json, silence
from fissile.cli._serve import run_async
from fissile.cli._signals import StopSignals

_IN_THIS_PROCESS = {"FISSILE_PLACEMENT": "monolith"}


def call(
    *tokens: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    context: Context,
) -> Exit:
    """Execute a command or ask a query: fissile call MODULE.MESSAGE [--field value ...] [JSON].

    Where the configured bus is shared, the processes that run are called. Where it is in memory, or in a file that no running process uses,
    the application starts in this process, without the gateway. The reply is printed as JSON. The fields are those of the message's
    contract; an option may be repeated where the field is a tuple, and `-` reads a JSON object from stdin. A field that is called like an
    option of all commands (`verbose`), or like these two, is given in the JSON object: `--as SUBJECT` calls for somebody, who has the
    `--scopes A,B`. Without it the call is that of a module, which may do everything.

    Args:
        tokens: The message and its fields.
        context: What all commands are given.
    """
    if not tokens or tokens[0].startswith("-"):
        raise CommandFailed("Which message? Write fissile call MODULE.MESSAGE [--field value ...].", code=Exit.USAGE)
    name, *rest = tokens
    context, rest = _shared_options(context, rest)
    identity, rest = _identity_in(rest)
    color = context.output.color_err
    with StopSignals() as signals:
        level = logging.DEBUG if context.verbose else logging.WARNING
        set_up_logging("console", level=level, verbose=context.verbose, color=color, traces=context.verbose)
        logging.getLogger("fissile.app").setLevel(
            level if context.verbose else logging.ERROR
        )  # that the bus is in memory is known
        if not context.verbose:
            silence("aiokafka")  # what matters of it is told as our own error
        application = context.application()
        if not application.is_answered:
            application = context.application(_IN_THIS_PROCESS)
            Whole.read(application, with_gateway=False).require()
        app = application.client()
        contracts = {contract.name: contract for contract in (*(each.contract for each in app.modules), *app.contracts)}
        message = parse(rest, name, find_message(contracts, name))
        adopt_structlog()
        try:
            reply = run_async(_call, application.settings, app, message, signals, identity)
        except (Exception, BaseExceptionGroup) as error:
            declared = leaves(error)
            if len(declared) == 1 and isinstance(declared[0], DeclaredError):
                return _tell_declared(declared[0], name, context.output)
            raise
        if signals.count:
            return Exit.INTERRUPTED
    context.output.json(reply)
    return Exit.OK


def _shared_options(context: Context, tokens: list[str]) -> tuple[Context, list[str]]:
    """Take the options of all commands out of the fields; a token after an option is the value of that."""
    rest: list[str] = []
    for token in tokens:
        is_value = bool(rest) and rest[-1].startswith("--") and "=" not in rest[-1]
        if token in ("-v", "--verbose") and not is_value:
            context = msgspec.structs.replace(context, verbose=True)
        elif token == "--no-color" and not is_value:  # noqa: S105 -- no password
            context = msgspec.structs.replace(context, output=Output(color=False))
        elif token != "--json" or is_value:  # noqa: S105 -- no password; the reply is JSON anyway
            rest.append(token)
    return context, rest


def _identity_in(tokens: list[str]) -> tuple[Identity | None, list[str]]:
    """Take for whom the call is made out of the fields."""
    found: dict[str, str] = {}
    rest: list[str] = []
    names = ("--as", "--scopes") if any(token.partition("=")[0] == "--as" for token in tokens) else ()
    remaining = iter(tokens)
    for token in remaining:
        name, is_whole, value = token.partition("=")
        if name not in names:
            rest.append(token)
            continue
        if not is_whole:
            value = next(remaining, "")
        if not value or name in found:
            raise CommandFailed(f"{name} wants one value: --as SUBJECT [--scopes A,B].", code=Exit.USAGE)
        found[name] = value
    if not found:
        return None, rest
    try:
        return Identity(found["--as"], frozenset(filter(None, found.get("--scopes", "").split(",")))), rest
    except ValueError as error:
        raise CommandFailed(f"--as {found['--as']}: {error}.", code=Exit.USAGE) from None


async def _call(
    app: App, message: Command[Any] | Query[Any], signals: StopSignals, identity: Identity | None
) -> Any:  # Any: the reply
    reply: Any = None
    with anyio.CancelScope() as scope, signals.listening(lambda _: scope.cancel()):
        async with app:
            bus = app.bus if identity is None else app.bus.acting_as(identity)
            reply = await (bus.execute(message) if isinstance(message, Command) else bus.ask(message))
    return plain(reply)


def find_message(contracts: Mapping[str, Contract], name: str) -> type[Request[Any]]:
    """Return the class of a command or query.

    Args:
        contracts: The contracts of the application, by the names of their modules.
        name: Such as `code-executor.run-code`.

    Raises:
        CommandFailed: There is none of that name.
    """
    module_name, _, message_name = name.partition(".")
    contract = contracts.get(module_name)
    everything: dict[str, type[Request[Any]]] = {
        each.name_of(cls): cls for each in contracts.values() for cls in (*each.commands, *each.queries)
    }
    if name in everything:
        return everything[name]
    if contract is None:
        known = ", ".join(contracts) or "none"
        what = f"There is no module {module_name!r}."
        raise CommandFailed(what, *did_you_mean(name, everything), f"Modules: {known}.", code=Exit.UNKNOWN_NAME)
    if any(contract.name_of(event) == name for event in contract.events):
        what = f"{name} is an event: it is published by its module, not called."
        raise CommandFailed(
            what, "`fissile ls commands` and `fissile ls queries` show what can be called.", code=Exit.UNKNOWN_NAME
        )
    own = [kebab_case(cls.__name__) for cls in (*contract.commands, *contract.queries)]
    raise CommandFailed(
        f"The module {module_name!r} has no command or query {message_name!r}.",
        *did_you_mean(message_name, own),
        f"It has: {', '.join(own) or 'none'}.",
        code=Exit.UNKNOWN_NAME,
    )


def _tell_declared(error: DeclaredError, name: str, output: Output) -> Exit:
    """Write a declared error as JSON, as a script expects it; it is an answer, and no failure of ours."""
    fields = {field.name: plain(getattr(error, field.name)) for field in fields_of(type(error))}
    module = name.partition(".")[0]
    told = {
        "error": f"{module}.{kebab_case(type(error).__name__)}",
        "status": type(error).status,
        "detail": in_words(error),
        "fields": fields,
    }
    output.say(encode_json(told, indent=output.is_terminal))
    return Exit.FAILED


def plain(value: Any) -> Any:  # Any: a value of a contract
    """Return a value as JSON has it, the fields in the order of their definition (msgspec takes that of the slots: the alphabet's)."""
    if attrs.has(value.__class__):
        return {field.name: plain(getattr(value, field.name)) for field in fields_of(value.__class__)}
    if isinstance(value, (tuple, list, frozenset)):
        return [plain(each) for each in cast("Iterable[Any]", value)]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return msgspec.to_builtins(value)
