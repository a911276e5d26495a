"""`fissile config`: every setting, its value and where that came from."""

from __future__ import annotations

from typing import Any

from fissile._errors import Fault, StartupFailed
from fissile._settings import Origin
from fissile.cli._context import Context, Whole
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import Exit
from fissile.cli._output import without_password
from fissile.cli._table import show_table


def config(*, context: Context) -> Exit:
    """Show every setting with its value and where that came from; secrets are masked.

    The strongest source wins: command line, environment, .env.local, .env, pyproject.toml, default.

    Args:
        context: What all commands are given.
    """
    application = context.application()
    whole = Whole.read(application)
    origins, faults = origins_of(whole)
    unknown = sorted(set(application.sources.unknown({origin.variable for origin in origins}))) if not faults else []
    told = [_told(origin) for origin in origins]
    if context.as_json:
        names = [{"setting": variable, "source": source} for variable, source in unknown]
        context.output.json(
            {"application": application.name, "file": application.file, "settings": told, "unknown": names}
        )
    else:
        show_table(context.output, told, ("setting", "value", "source"))
    for variable, source in unknown:
        meant = " ".join(did_you_mean(variable, [origin.variable for origin in origins]))
        context.output.warn(f"{variable} ({source}) is no setting of this application. {meant}".rstrip())
    if faults:
        raise StartupFailed(faults)
    return Exit.OK


def origins_of(whole: Whole) -> tuple[tuple[Origin, ...], tuple[Fault, ...]]:
    """Return the settings of the runtime and of the modules, and what keeps the modules' from being read."""
    own = whole.application.origins
    if whole.faults:
        return own, whole.faults
    try:
        return (*own, *whole.app.settings_in_use()), ()
    except StartupFailed as failed:
        return own, failed.faults


def _told(origin: Origin) -> dict[str, Any]:  # Any: a value of a setting, if it is no secret
    shown = without_password(origin.shown())
    is_plain = origin.value is None or isinstance(origin.value, (int, float, bool))
    value = origin.value if is_plain and not origin.is_secret else shown
    return {
        "setting": origin.variable,
        "value": value,
        "source": origin.source,
        "help": origin.help,
        "secret": origin.is_secret,
    }
