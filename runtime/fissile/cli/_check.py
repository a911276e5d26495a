"""`fissile check`: everything that keeps the application from starting, and every boundary that is crossed, at once."""

from __future__ import annotations

from fissile._application import Application
from fissile._errors import Fault, StartupFailed
from fissile.cli._boundaries import boundary_faults
from fissile.cli._context import Context, Whole
from fissile.cli._errors import describe_faults
from fissile.cli._exit import Exit


def check(*, context: Context) -> Exit:
    """Find all faults of the application at once, without starting it; exits with 3 if there are any.

    Args:
        context: What all commands are given.
    """
    name, modules, faults = _faults(context)
    if context.as_json:
        told = [{"what": fault.what, "where": fault.where, "cure": fault.cure} for fault in faults]
        context.output.json({"application": name, "modules": modules, "faults": told})
    elif faults:
        what, details = describe_faults("The application has faults", faults)
        context.output.error(what, *details)
    else:
        count = "1 module" if len(modules) == 1 else f"{len(modules)} modules"
        context.output.data(f"{name}: {count}, no faults")
    return Exit.INVALID if faults else Exit.OK


def _faults(context: Context) -> tuple[str | None, tuple[str, ...], tuple[Fault, ...]]:
    try:
        application = context.application()
    except StartupFailed as failed:
        return None, (), failed.faults
    whole = Whole.read(application)
    faults = [*whole.faults, *_placement_faults(application, whole), *whole.app.check(), *boundary_faults(application)]
    found: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        # A broken file is found by importing it and by reading it.
        found.setdefault((fault.where, fault.what.split(" cannot be imported: ")[-1]), fault)
    return application.name, tuple(whole.own), tuple(found.values())


def _placement_faults(application: Application, whole: Whole) -> tuple[Fault, ...]:
    if whole.faults:
        return ()  # a module that cannot be imported has no name yet, so the placement would seem to name modules that are not there
    try:
        application.placement(tuple(whole.modules))
    except StartupFailed as failed:
        return failed.faults
    return ()
