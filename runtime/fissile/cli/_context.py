"""What every command is given: where it works, how it talks, and the application it is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fissile._app import App
from fissile._application import Application
from fissile._contract import Contract
from fissile._errors import Fault, StartupFailed
from fissile._module import Module
from fissile._placement import GATEWAY
from fissile.cli._output import Output


class Context(msgspec.Struct, frozen=True):
    """The options that all commands share.

    Attributes:
        started: When the command began, on `perf_counter`.
        as_json: Whether data is wanted as JSON.
        verbose: Whether details are wanted: tracebacks, and the tree of an error group.
        output: Writes.
    """

    started: float
    as_json: bool = False
    verbose: bool = False
    output: Output = msgspec.field(default_factory=Output)

    def application(
        self, command_line: Mapping[str, Any] | None = None, *, is_dev: bool = False, is_served: bool = False
    ) -> Application:
        """Find the application here or above.

        A command that only asks finds the key of `fissile dev --split`. What is served by hand wants one that is set.

        Args:
            command_line: Settings given there, by the name of their environment variable; Any: of the setting's type.
            is_dev: Whether it runs for a developer.
            is_served: Whether it is run for others, as in production.

        Raises:
            StartupFailed: There is none, or its configuration has faults.
        """
        given = {name: value for name, value in (command_line or {}).items() if value is not None}
        application = Application.find(Path.cwd(), command_line=given, is_dev=is_dev)
        return application if is_dev or is_served else application.with_developers_key()


class Whole(msgspec.Struct, frozen=True):
    """An application with all of its modules, wherever the placement puts them.

    Attributes:
        application: The application.
        modules: Its modules by name, the gateway last.
        app: All of them in one process; not started.
        faults: What kept modules from being imported.
    """

    application: Application
    modules: Mapping[str, Module]
    app: App
    faults: tuple[Fault, ...]

    @property
    def own(self) -> Mapping[str, Module]:
        """The modules without the gateway."""
        return {name: module for name, module in self.modules.items() if name != GATEWAY}

    @classmethod
    def read(cls, application: Application, *, with_gateway: bool = True) -> Whole:
        """Import all modules of an application; what cannot be imported is noted."""
        faults: list[Fault] = []
        modules = application.import_modules(faults, with_gateway=with_gateway)
        app = App(
            modules.values(),
            contracts=_contracts_of_the_broken(application, modules),
            settings=application.settings,
            sources=application.sources,
            name=application.name,
        )
        return cls(application, modules, app, tuple(_once(faults)))

    def require(self) -> Whole:
        """Return it if all modules could be imported.

        Raises:
            StartupFailed: They could not.
        """
        if self.faults:
            raise StartupFailed(self.faults)
        return self


def _once(faults: list[Fault]) -> list[Fault]:
    """Return each fault once: a broken file is told by every module that imports it."""
    found: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        found.setdefault((fault.where, fault.what.split(" cannot be imported: ")[-1]), fault)
    return list(found.values())


def _contracts_of_the_broken(application: Application, modules: Mapping[str, Module]) -> list[Contract]:
    """Return the contracts of modules that cannot be imported, so that others that use them are not blamed for it."""
    import sys
    from importlib import import_module

    contracts: list[Contract] = []
    for path in application.paths:
        if ":" in path or f"{path}.service" in sys.modules:
            continue
        try:
            contract = getattr(import_module(f"{path}.contract"), "contract", None)
        except Exception:  # noqa: BLE001, S112 -- it is told already as the fault of its module
            continue
        if isinstance(contract, Contract) and contract.name not in modules:
            contracts.append(contract)
    return contracts
