"""`fissile migrate`: brings the databases of the modules up to date, shows what they lack, writes migrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import asdict, frozen
from cyclopts import Parameter

from fissile._application import Application
from fissile._errors import StartupFailed
from fissile._module import Module
from fissile.cli._context import Context, Whole
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._serve import run_async
from fissile.cli._table import show_table
from fissile.database import DatabaseUnavailable, Schema

Action = Literal["apply", "show", "new"]


def migrate(
    action: Action = "apply",
    module: str | None = None,
    /,
    *message: str,
    check: Annotated[bool, Parameter(negative=())] = False,
    grant_to: str | None = None,
    context: Context,
) -> Exit:
    """Bring the databases of all modules up to date.

    `migrate` applies what is missing, `migrate show` lists it, and `migrate new MODULE "MESSAGE"` writes a migration from the last one to the
    tables that the module declares. Each database is brought up to date as a whole or not at all; it does no harm to run it twice, or twice
    at once.

    Args:
        action: What to do.
        module: The one module that it is about; all of them unless told.
        message: What the new migration does, as a few words.
        check: Change nothing; exit with 10 if migrations are pending, or tables are declared that no migration makes.
        grant_to: The user of PostgreSQL who will run the modules, where it is not the one who migrates.
        context: What all commands are given.
    """
    application = context.application()
    databases = _databases(application, module)
    if action == "new":
        return _new(context, application, databases, module, message)
    if message:
        raise CommandFailed(
            f"What is {' '.join(message)!r}?",
            'A message belongs to `fissile migrate new MODULE "MESSAGE"`.',
            code=Exit.USAGE,
        )
    if action == "show" or check:
        return _show(context, application, databases, check=check)
    return _apply(context, application, databases, grant_to)


def _databases(application: Application, module: str | None) -> dict[str, Schema]:
    """Return the databases of an application by module, or that of one module."""
    modules: Mapping[str, Module] = Whole.read(application, with_gateway=False).require().own
    found = {name: one.database for name, one in modules.items() if isinstance(one.database, Schema)}
    faults = tuple(fault for schema in found.values() for fault in schema.faults())
    if faults:
        raise StartupFailed(faults)
    if module is None:
        return found
    if module in found:
        return {module: found[module]}
    what = f"The module {module} declares no database." if module in modules else f"There is no module {module!r}."
    cure = (
        "Give it one: Module(contract, database=Schema(metadata))." if module in modules else "`fissile ls` lists them."
    )
    raise CommandFailed(what, *did_you_mean(module, modules), cure, code=Exit.UNKNOWN_NAME)


# --- what is done, each in an event loop of its own ------------------------------------------------------------------


def _apply(context: Context, application: Application, databases: Mapping[str, Schema], grant_to: str | None) -> Exit:
    applied: dict[str, list[str]] = {}
    for module, schema in databases.items():
        try:
            applied[module] = list(_run(application, module, schema, "migrate", grant_to))
        except (StartupFailed, CommandFailed):
            raise
        except PermissionError as error:
            raise CommandFailed(f"{module} was not migrated: {error}.", *_before(applied), code=Exit.FAILED) from error
        except Exception as error:
            text = f"{module} was not migrated: {type(error).__name__}: {error}"
            raise CommandFailed(
                text, "Its database is as it was. -v shows the traceback.", *_before(applied), code=Exit.FAILED
            ) from error
        if not context.as_json:
            for name in applied[module]:
                context.output.data(f"{module}: applied {name}")
    if context.as_json:
        context.output.json({"applied": applied})
    elif not any(applied.values()):
        context.output.say(
            "Nothing to do: all databases are up to date." if applied else "No module declares a database."
        )
    return Exit.OK


def _before(applied: Mapping[str, list[str]]) -> tuple[str, ...]:
    names = [module for module, done in applied.items() if done]
    return (f"These were migrated before it: {', '.join(names)}.",) if names else ()


def _show(context: Context, application: Application, databases: Mapping[str, Schema], *, check: bool) -> Exit:
    found = [_run(application, module, schema, "look") for module, schema in databases.items()]
    if context.as_json:
        context.output.json([asdict(one) for one in found])
    elif found:
        show_table(context.output, [asdict(one) for one in found], ("module", "applied", "pending", "drift", "place"))
    if not context.as_json:
        _conclude(context, found)
    return Exit.PENDING if check and any(one.pending or one.drift for one in found) else Exit.OK


def _conclude(context: Context, found: list[Look]) -> None:
    for one in found:
        if one.is_newer:
            context.output.warn(f"The database of {one.module} has a migration that this program does not know.")
        if one.drift:
            context.output.say(
                f'{one.module} declares tables that its migrations do not make: fissile migrate new {one.module} "..." writes one.'
            )
    if any(one.pending for one in found):
        context.output.say("Migrations are pending: `fissile migrate` applies them.")
    elif not found:
        context.output.say("No module declares a database.")
    elif not any(one.drift for one in found):
        context.output.say("No migrations are pending.")


def _new(
    context: Context,
    application: Application,
    databases: Mapping[str, Schema],
    module: str | None,
    message: tuple[str, ...],
) -> Exit:
    if module is None or not any(message):
        raise CommandFailed(
            "For which module, and what does the migration do?",
            'Write fissile migrate new MODULE "MESSAGE".',
            code=Exit.USAGE,
        )
    if len(message) > 1:
        raise CommandFailed(
            "The message of a migration is one argument, and these are several.",
            f"Put it into quotes: fissile migrate new {module} {json.dumps(' '.join(message), ensure_ascii=False)}",
            code=Exit.USAGE,
        )
    path: Path | None = _run(application, module, databases[module], "write", " ".join(message))
    if context.as_json:
        context.output.json({"module": module, "file": None if path is None else str(path)})
    elif path is None:
        context.output.say(f"Nothing to write: the migrations of {module} make the tables that it declares.")
    else:
        context.output.data(str(path))
        context.output.say(
            "Read it before it is applied: a renamed column looks like one that went and another that came."
        )
    return Exit.OK


@frozen
class Look:
    """What `fissile migrate show` tells of one database.

    Attributes:
        module: The module.
        place: Where its database is.
        applied: The newest migration that it has.
        pending: What it lacks.
        drift: How the declared tables differ from what the migrations make.
        is_newer: Whether it has a migration that this program does not know.
    """

    module: str
    place: str
    applied: str
    pending: tuple[str, ...]
    drift: tuple[str, ...]
    is_newer: bool


def _run(application: Application, module: str, schema: Schema, what: str, *arguments: str | None) -> Any:
    """Do one thing with the database of a module.

    Raises:
        CommandFailed: The database cannot be used.
    """
    try:
        return run_async(_work, application.settings, application, module, schema, what, *arguments)
    except DatabaseUnavailable as error:
        cure = "Where databases are is the setting FISSILE_DATABASE; `fissile config` shows it."
        raise CommandFailed(f"{str(error)[:1].upper()}{str(error)[1:]}.", cure, code=Exit.UNAVAILABLE) from error


async def _work(application: Application, module: str, schema: Schema, what: str, argument: str | None = None) -> Any:
    # Any: each has its own result. Imported here: SQLAlchemy and Alembic take a while.
    from fissile.database import _migrations
    from fissile.database._dialect import Target
    from fissile.database._store import Store

    target = Target.of(module, application.settings, folder=application.root, application=application.name)
    async with Store(target, application.settings) as store:
        if what == "migrate":
            return await _migrations.migrate(store, schema, grant_to=argument)
        if what == "write":
            return await _migrations.new(store, schema, argument or "")
        state = await _migrations.state(store, schema)
        drift = await _migrations.drift(store, schema)
        return Look(state.module, state.place, state.applied, state.pending, drift, state.is_newer)
