"""`fissile ls`: what the modules of the application declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_type_hints

import attrs

from fissile._contract import DAY_S
from fissile._errors import StartupFailed
from fissile._messages import Command, Query, fields_of, reply_type
from fissile._module import HandlerDeclaration, Module
from fissile._names import kebab_case, place, source_place
from fissile._placement import read_placements
from fissile._retry import Retry
from fissile.cli._arguments import shown_type
from fissile.cli._config import origins_of
from fissile.cli._context import Context, Whole
from fissile.cli._output import without_password
from fissile.cli._table import show_table

Kind = Literal["modules", "commands", "queries", "topics", "subscriptions", "sagas", "schedules", "settings"]
Row = Mapping[str, Any]  # Any: texts, numbers and sequences of texts


def ls(kind: Kind = "modules", /, *, context: Context) -> None:
    """List what the modules of the application declare.

    Args:
        kind: What to list.
        context: What all commands are given.
    """
    whole = Whole.read(context.application(), with_gateway=kind in ("modules", "settings")).require()
    read, columns = _KINDS[kind]
    rows = read(whole)
    if context.as_json:
        context.output.json(rows)
    elif rows:
        show_table(context.output, rows, columns)
    else:
        context.output.say(f"There are no {kind}.")


def _modules(whole: Whole) -> list[Row]:
    names = (*whole.own, "gateway")
    placement = read_placements(whole.application.table, names).get(whole.application.settings.placement, {})
    return [
        {
            "module": name,
            "process": [process for process, hosted in placement.items() if name in hosted],
            "commands": len(module.contract.commands),
            "queries": len(module.contract.queries),
            "topics": len(module.contract.topics),
            "subscriptions": len(module.subscriptions),
            "database": _database(whole, name, module),
            "contract": place(*module.contract.place),
        }
        for name, module in whole.modules.items()
    ]


def _database(whole: Whole, name: str, module: Module) -> str | None:
    """Return where a module keeps its tables, without the password; None if it has none."""
    if module.database is None:
        return None
    from fissile.database._dialect import Target  # whoever has a database has imported SQLAlchemy

    application = whole.application
    try:
        target = Target.of(name, application.settings, folder=application.root, application=application.name)
    except StartupFailed as failed:
        return failed.faults[0].what
    return str(target)


def _commands(whole: Whole) -> list[Row]:
    return [
        {
            **_request(name, cls, handlers.get(cls)),
            "idempotent": cls in handlers and handlers[cls].idempotent,
            "key": _key(cls),
            "retry": retry_shown(handlers[cls].retry) if cls in handlers else None,
        }
        for module in whole.own.values()
        for handlers in [{each.message: each for each in module.handlers}]
        for cls in module.contract.commands
        for name in [module.contract.name_of(cls)]
    ]


def _queries(whole: Whole) -> list[Row]:
    return [
        _request(module.contract.name_of(cls), cls, handlers.get(cls))
        for module in whole.own.values()
        for handlers in [{each.message: each for each in module.handlers}]
        for cls in module.contract.queries
    ]


def _request(name: str, cls: type[Command[Any] | Query[Any]], handler: HandlerDeclaration | None) -> Row:
    return {
        "name": name,
        "fields": fields_shown(cls),
        "reply": shown_type(reply_type(cls)),
        "errors": [kebab_case(error.__name__) for error in cls.declared_errors],
        "requires": list(cls.required_scopes),
        "handler": None if handler is None else source_place(handler.function),
    }


def fields_shown(cls: type) -> list[str]:
    """Return the fields of a message, such as `quantity: int = 1`."""
    hints = get_type_hints(cls, include_extras=True)
    shown: list[str] = []
    for attribute in fields_of(cls):
        default: Any = attribute.default  # Any: of the field's type
        text = f"{attribute.name}: {shown_type(hints[attribute.name])}"
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types Factory as a function
            text += " = …"
        elif default is not attrs.NOTHING:
            text += f" = {default!r}"
        shown.append(text)
    return shown


def _key(cls: type[Command[Any]]) -> str | None:
    return None if cls.order_key is None else cls.order_key if isinstance(cls.order_key, str) else "a function"


def _topics(whole: Whole) -> list[Row]:
    return [
        {
            "topic": topic.name,
            "events": [event.__name__ for event in topic.events],
            "retention_days": round(topic.retention_s / DAY_S, 3),
            "requires": list(topic.required_scopes),
            "subscribers": [
                each.name for each in whole.own.values() if any(one.topic is topic for one in each.subscriptions)
            ],
            "place": place(*topic.place),
        }
        for module in whole.own.values()
        for topic in module.contract.topics
    ]


def _subscriptions(whole: Whole) -> list[Row]:
    return [
        {
            "module": module.name,
            "topic": declaration.topic.name,
            "events": [event.__name__ for event in declaration.events],
            "start": declaration.start,
            "retry": retry_shown(declaration.retry),
            "handler": source_place(declaration.function),
        }
        for module in whole.own.values()
        for declaration in module.subscriptions
    ]


def _sagas(whole: Whole) -> list[Row]:
    return [
        {
            "module": module.name,
            "saga": declaration.name,
            "starts": [cls.__name__ for cls in declaration.starts],
            "waits_for": [topic.name for topic in declaration.awaits],
            "retry": retry_shown(declaration.retry, then="then the saga gets the error"),
            "function": source_place(declaration.function),
        }
        for module in whole.own.values()
        for declaration in module.sagas
    ]


def _schedules(whole: Whole) -> list[Row]:
    return [
        {
            "module": module.name,
            "schedule": schedule.name,
            "expression": schedule.expression,
            "time_zone": schedule.time_zone,
            "command": module.contract.name_of(command),
        }
        for module in whole.own.values()
        for schedule in module.schedules
        for command in [cast("type[Command[Any]]", type(schedule.command))]
    ]


def retry_shown(retry: Retry, *, then: str = "then dead letter") -> str:
    """Return a retry policy as a sentence; that of a command is for those that nobody waits for.

    Args:
        retry: The policy.
        then: What comes after the last attempt.
    """
    end = f"{then}, and its key is parked" if retry.parks else then
    if retry.attempts <= 1:
        return f"once, {end}"
    text = f"{retry.attempts} times from {retry.first_s:g} s, at most {retry.longest_s:g} s, {end}"
    permanent = ", ".join(error.__name__ for error in retry.permanent)
    return f"{text}; never on {permanent}" if permanent else text


def _settings(whole: Whole) -> list[Row]:
    origins, _ = origins_of(whole)
    return [
        {
            "setting": origin.variable,
            "value": without_password(origin.shown()),
            "help": origin.help,
            "source": origin.source,
        }
        for origin in origins
    ]


_KINDS: dict[Kind, tuple[Callable[[Whole], list[Row]], tuple[str, ...]]] = {
    "modules": (
        _modules,
        ("module", "process", "commands", "queries", "topics", "subscriptions", "database", "contract"),
    ),
    "commands": (_commands, ("name", "fields", "reply", "errors", "requires", "idempotent", "key", "retry", "handler")),
    "queries": (_queries, ("name", "fields", "reply", "errors", "requires", "handler")),
    "topics": (_topics, ("topic", "events", "retention_days", "requires", "subscribers", "place")),
    "subscriptions": (_subscriptions, ("module", "topic", "events", "start", "retry", "handler")),
    "sagas": (_sagas, ("module", "saga", "starts", "waits_for", "retry", "function")),
    "schedules": (_schedules, ("module", "schedule", "expression", "time_zone", "command")),
    "settings": (_settings, ("setting", "value", "help")),
}
