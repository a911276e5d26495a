"""An application as its configuration describes it: its name, its modules, its placements, its settings."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import attrs
import msgspec

from fissile._app import App
from fissile._contract import Contract
from fissile._errors import Fault, StartupFailed
from fissile._module import Module
from fissile._names import place
from fissile._placement import GATEWAY, Placement, placement_faults, read_placements
from fissile._settings import Origin, Settings, Source, Sources, load, read_toml, variable_name
from fissile.transports._sqlite_options import absolute, path_of

T = TypeVar("T")

DEFAULT_BUS = "sqlite:///data/log.sqlite3"
"""The bus of an application that names none: what was stored outlives a crash, and other commands find the process that runs."""

DEFAULT_BUS_IN_DEV = "memory://"
"""The same for a developer, who starts anew all the time."""

GATEWAY_PACKAGE = "fissile_gateway"
"""Where the gateway's module is. It comes with the extra `gateway`; the library never imports it but here, by name."""


class Application(msgspec.Struct, frozen=True):
    """What `[tool.fissile]` describes, with the settings read.

    Attributes:
        name: The application's name.
        root: The folder of its configuration, from which its modules are imported.
        file: The configuration file.
        paths: The import paths of its modules.
        table: The table `[tool.fissile]`.
        sources: Where settings come from.
        settings: The runtime's settings.
        origins: Where each of them came from.
        is_dev: Whether it runs for a developer.
    """

    name: str
    root: Path
    file: str
    paths: tuple[str, ...]
    table: Mapping[str, Any]  # Any: TOML values
    sources: Sources
    settings: Settings
    origins: tuple[Origin, ...]
    is_dev: bool

    @classmethod
    def find(cls, folder: Path, *, command_line: Mapping[str, Any] | None = None, is_dev: bool = False) -> Application:
        """Find the configuration in a folder or above it, and read it.

        Args:
            folder: Where to begin.
            command_line: Settings given there, by the name of their environment variable.
            is_dev: Whether it runs for a developer.

        Raises:
            StartupFailed: There is none, or it has faults.
        """
        for root in (folder, *folder.parents):
            for file in ("fissile.toml", "pyproject.toml"):
                path = root / file
                if not path.is_file():
                    continue
                document = read_toml(path)
                table = document if file == "fissile.toml" else document.get("tool", {}).get("fissile")
                if table is not None:
                    return cls._read(root, file, table, command_line, is_dev)
        fault = Fault(
            "There is no application here: no fissile.toml, and no pyproject.toml with [tool.fissile].",
            str(folder),
            "Go to its folder, or name it: -C FOLDER on the command line, fissile.connect(folder=...) in Python.",
        )
        raise StartupFailed((fault,))

    @classmethod
    def _read(
        cls,
        root: Path,
        file: str,
        table: Mapping[str, Any],
        command_line: Mapping[str, Any] | None,
        is_dev: bool,  # noqa: FBT001
    ) -> Application:
        sources = Sources.read(root, command_line=command_line, toml=table, toml_name=file)
        bus = {variable_name("bus"): DEFAULT_BUS_IN_DEV if is_dev else DEFAULT_BUS}
        sources = Sources((*sources.sources, Source("default", bus)))
        faults: list[Fault] = []
        paths: list[str] = table.get("modules", [])
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            faults.append(
                Fault(
                    "modules is no list of import paths.",
                    f"{file} [tool.fissile]",
                    'Write modules = ["modules.orders"].',
                )
            )
            paths = []
        try:
            settings, origins = load(Settings, sources)
        except StartupFailed as failed:
            raise StartupFailed((*faults, *failed.faults)) from None
        if faults:
            raise StartupFailed(tuple(faults))
        name = str(table.get("name", root.name))
        # A file is in the application's folder, wherever a command is typed.
        settings = attrs.evolve(settings, bus=absolute(settings.bus, root))
        if not settings.kafka_prefix:
            # Two applications on one broker must not meet; two developers of one application set it themselves.
            settings = attrs.evolve(settings, kafka_prefix=f"{name}.")
            origins = tuple(
                msgspec.structs.replace(origin, value=settings.kafka_prefix, source="the application's name")
                if origin.variable == variable_name("kafka_prefix")
                else origin
                for origin in origins
            )
        return cls(name, root, file, tuple(paths), table, sources, settings, origins, is_dev)

    def with_developers_key(self) -> Application:
        """Return it with the key that `fissile dev --split` has made for its bus, where no key is set and there is such a one.

        It is for what asks of the processes there, and hosts nothing that others call.

        Raises:
            StartupFailed: The file with the key cannot be read, or others could.
        """
        if self.settings.identity_keys or not self.settings.bus.startswith("kafka:"):
            return self
        from fissile._developers_key import path_of_key, read_key  # for developers only

        path = path_of_key(self.root, self.settings.bus)
        try:
            key = read_key(path)
        except OSError as error:
            raise StartupFailed(
                (
                    Fault(
                        f"The key cannot be read: {error.strerror}.",
                        str(path),
                        "Correct its permissions, or remove it.",
                    ),
                )
            ) from None
        if key is None:
            return self
        origins = tuple(
            msgspec.structs.replace(origin, value=(key,), source=str(path.relative_to(self.root)))
            if origin.variable == variable_name("identity_keys")
            else origin
            for origin in self.origins
        )
        return msgspec.structs.replace(
            self, settings=attrs.evolve(self.settings, identity_keys=(key,)), origins=origins
        )

    # --- modules -----------------------------------------------------------------------------------------------------

    def app(self, process: str | None = None, *, with_gateway: bool = True) -> App:
        """Make one process of the application; nothing is started.

        Of the modules that other processes host, the contracts are imported and nothing else: their dependencies need not be installed.

        Args:
            process: Its name in the placement; may be left out where the placement has one.
            with_gateway: Whether a process that hosts the gateway really does.

        Raises:
            StartupFailed: Modules cannot be imported, or the placement has faults.
        """
        faults: list[Fault] = []
        contracts = self.import_contracts(faults)
        if faults:
            raise StartupFailed(tuple(faults))
        placement = self.placement(tuple(contract.name for contract in contracts.values()))
        process = self.choose_process(placement, process)
        hosted: list[Module] = []
        for path, contract in contracts.items():
            if contract.name in placement[process]:
                module = self._import_module(path, faults)
                if module is not None:
                    hosted.append(module)
        if with_gateway and GATEWAY in placement[process]:
            gateway = self._import_module(f"{GATEWAY_PACKAGE}:module", faults)
            if gateway is not None:
                hosted.append(gateway)
        if faults:
            raise StartupFailed(tuple(faults))
        return self._make(hosted, list(contracts.values()), process)

    def client(self) -> App:
        """Make a process that hosts nothing and calls everything.

        Where nobody would answer, because the bus is in memory, or in a file that no process uses, it hosts all modules itself, but no gateway.

        Raises:
            StartupFailed: Contracts or modules cannot be imported.
        """
        faults: list[Fault] = []
        if self.is_answered:
            contracts = self.import_contracts(faults)
            if faults:
                raise StartupFailed(tuple(faults))
            return self._make([], list(contracts.values()), "client")
        modules = self.import_modules(faults, with_gateway=False)
        if faults:
            raise StartupFailed(tuple(faults))
        return self._make(list(modules.values()), [], "client")

    def _make(self, hosted: list[Module], contracts: list[Contract], process: str) -> App:
        return App(
            hosted,
            contracts=contracts,
            settings=self.settings,
            sources=self.sources,
            name=self.name,
            process=process,
            root=self.root,
            is_dev=self.is_dev and self._is_loopback(),
        )

    def placement(self, modules: tuple[str, ...]) -> Placement:
        """Return the placement that the settings name.

        Raises:
            StartupFailed: It has faults.
        """
        names = (*(name for name in modules if name != GATEWAY), GATEWAY)
        placements = read_placements(self.table, names)
        faults = tuple(
            placement_faults(self.settings.placement, placements, names, self.file, log_is_shared=self.log_is_shared)
        )
        if faults:
            raise StartupFailed(faults)
        return placements[self.settings.placement]

    def choose_process(self, placement: Placement, process: str | None) -> str:
        """Return the process to run.

        Raises:
            StartupFailed: There is none of that name, or several to choose from.
        """
        known = ", ".join(placement)
        if process is None:
            if len(placement) == 1:
                return next(iter(placement))
            what = f"The placement {self.settings.placement!r} has several processes: {known}."
            raise StartupFailed((Fault(what, "command line", "Name one of them."),))
        if process not in placement:
            what = f"The placement {self.settings.placement!r} has no process {process!r}."
            raise StartupFailed((Fault(what, "command line", f"Name one of: {known}."),))
        return process

    def import_contracts(self, faults: list[Fault]) -> dict[str, Contract]:
        """Import the contracts of all modules, and note what cannot be imported.

        Returns:
            The contracts by the import paths of their modules, in the order of the configuration.
        """
        found: dict[str, Contract] = {}
        for path in self.paths:
            if ":" in path:
                module = self._import_module(path, faults)
                if module is not None:
                    found[path] = module.contract
                continue
            contract = self._import(f"{path}.contract", "contract", Contract, 'contract = Contract("...")', faults)
            if contract is not None:
                found[path] = contract
        return found

    def import_modules(self, faults: list[Fault], *, with_gateway: bool = True) -> dict[str, Module]:
        """Import all modules; note what cannot be imported.

        Returns:
            The modules by their names, in the order of the configuration, the gateway last.
        """
        found: dict[str, Module] = {}
        for path in self.paths:
            module = self._import_module(path, faults)
            if module is not None:
                found[module.name] = module
        if with_gateway:
            module = self._import_module(f"{GATEWAY_PACKAGE}:module", faults)
            if module is not None:
                found[GATEWAY] = module
        return found

    def _import_module(self, path: str, faults: list[Fault]) -> Module | None:
        name, _, attribute = path.partition(":")
        if not attribute:
            name, attribute = f"{name}.service", "module"
        return self._import(name, attribute, Module, f"{attribute} = Module(contract)", faults)

    def _import(self, name: str, attribute: str, kind: type[T], line: str, faults: list[Fault]) -> T | None:
        """Import an object of a Python module, or note why it cannot be."""
        where = f"{self.file} [tool.fissile] modules"
        if str(self.root) not in sys.path:
            sys.path.insert(0, str(self.root))
        try:
            python_module: ModuleType = import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing == GATEWAY_PACKAGE or missing in ("quart", "hypercorn", "quart_trio"):
                faults.append(
                    Fault(
                        f"The gateway is not installed: {error}.", where, "Install it: pip install 'fissile[gateway]'."
                    )
                )
            elif name == missing or name.startswith(f"{missing}."):
                faults.append(Fault(f"There is no module {name}.", where, "Create it, or correct the path."))
            else:
                faults.append(
                    Fault(
                        f"{name} needs {missing}, which is not installed.",
                        _raised_at(error),
                        "Install its dependencies.",
                    )
                )
            return None
        except Exception as error:  # noqa: BLE001 -- whatever goes wrong in a developer's file is told as its fault
            what = f"{name} cannot be imported: {type(error).__name__}: {error}."
            faults.append(Fault(what, _raised_at(error), "Correct the file."))
            return None
        found = getattr(python_module, attribute, None)
        if not isinstance(found, kind):
            faults.append(
                Fault(
                    f"{name} has no {kind.__name__} called {attribute!r}.",
                    place(python_module.__file__ or "?", 1),
                    f"Write {line}.",
                )
            )
            return None
        return found

    def _is_loopback(self) -> bool:
        """Tell whether the gateway can be reached from this machine only."""
        found = self.sources.find(variable_name("host"))
        return found is None or found[0] in ("127.0.0.1", "::1", "localhost")

    @property
    def log_is_shared(self) -> bool:
        """Whether several processes can use the bus that the settings name."""
        return not self.settings.bus.startswith("memory:")

    @property
    def is_answered(self) -> bool:
        """Whether processes may be there that answer calls: on a broker always, on a file where one hosts modules, in memory never."""
        if self.settings.bus.startswith("sqlite:"):
            from fissile.transports._sqlite_view import is_hosted  # SQLite is not needed for the other buses

            return is_hosted(path_of(self.settings.bus))
        return self.log_is_shared

    def unknown_variables(self, app: App) -> tuple[tuple[str, str], ...]:
        """Return variables with our prefix that no settings class has, and where they are: most often a slip of the pen."""
        known = {origin.variable for origin in (*self.origins, *app.settings_in_use())}
        return tuple(self.sources.unknown(known))


def _raised_at(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return place(error.filename, error.lineno or 1)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return place(frames[-1].filename, frames[-1].lineno or 1) if frames else "?"
