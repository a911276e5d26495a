"""Settings: read once, into frozen attrs classes, each value with its origin.

Precedence, highest first: command line, process environment, `.env.local`, `.env`, `pyproject.toml`, default. Every fault is reported,
not the first one only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_origin, get_type_hints

import attrs
import msgspec
from attrs import field, frozen

from fissile._errors import Fault, StartupFailed

if TYPE_CHECKING:
    from pathlib import Path

S = TypeVar("S")

PREFIX = "FISSILE_"
MASK = "********"
_DESCRIBED_IN_TOML = {"name", "modules", "placements", "settings", "gateway"}
_READ_ELSEWHERE = ("FISSILE_TEST_", "FISSILE_REQUIRE")


def setting(default: Any, help: str, *, at_least: float | None = None) -> Any:  # noqa: A002 -- Any: attrs.field is typed so, that it can stand for any field
    """Declare a field of a settings class, with a sentence for people.

    Args:
        default: Its default.
        help: What it means, with its unit.
        at_least: The smallest value that a number may have. A smaller one is a fault at start, and a `ValueError` where the class is called.
    """
    if at_least is None:
        return field(default=default, metadata={"help": help})
    return field(default=default, metadata={"help": help, "at_least": at_least}, validator=_has_room)


def _has_room(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:  # Any: as validators of attrs have it
    problem = _too_small(attribute, value)
    if problem is not None:
        raise ValueError(f"{attribute.name}={value!r} cannot be used: {problem}.")


def _too_small(attribute: attrs.Attribute[Any], value: Any) -> str | None:  # Any: as above
    """Say what is wrong with a number, if it is below its bound; no bound holds for a number that is none."""
    bound = attribute.metadata.get("at_least")
    return None if bound is None or value >= bound else f"it has to be at least {bound:g}"


def secret(default: Any = attrs.NOTHING, help: str = "") -> Any:  # noqa: A002 -- Any: as above
    """Declare a field of a settings class, or of a message, whose value is never shown.

    Args:
        default: Its default; without one the field is required.
        help: What it means.
    """
    return field(default=default, repr=lambda _: MASK, metadata={"help": help, "secret": True})


@frozen
class ModuleSettings:
    """The base of a module's own settings: a frozen attrs class whose fields all have defaults or must be set.

    Resources, handlers and workers of the module name the class in their parameters. The field `wall_s` of the module `code-executor`
    is read from `FISSILE_CODE_EXECUTOR_WALL_S`, or `wall_s` in `[tool.fissile.settings.code-executor]`.
    """


@frozen
class Settings:
    """The settings of the runtime. `fissile config` prints them, with the origin of each."""

    placement: str = setting("monolith", "The placement to run; `monolith` (all modules in one process) always exists.")
    bus: str = setting(
        "memory://",
        "Where messages and logs live: sqlite:///path (a file, for the processes of one machine), kafka://host:port, or memory:// "
        "(this process only, until it stops). Unset: sqlite:///data/log.sqlite3, but memory:// in `fissile dev`.",
    )
    backend: Literal["asyncio", "trio"] = setting(
        "asyncio", "The event loop; asyncio uses uvloop where it is installed."
    )
    wire: Literal["json", "msgpack"] = setting("json", "The format of a message's body.")
    max_message_bytes: int = setting(1024 * 1024, "The size of an encoded message or reply, in bytes.", at_least=1024)
    call_timeout_s: float = setting(
        30.0, "The deadline of a chain of calls whose caller has none, in seconds.", at_least=0.001
    )
    calls_in_flight: int = setting(1000, "How many calls one caller may have in flight to one module.", at_least=1)
    commands_running: int = setting(100, "How many commands and events a module handles at a time.", at_least=1)
    queries_running: int = setting(200, "How many queries a module handles at a time.", at_least=1)
    chain_depth: int = setting(32, "How many calls may be nested.", at_least=1)
    threads: int = setting(16, "How many sync handlers of a module run at a time, each in a worker thread.", at_least=1)
    partitions: int = setting(8, "How many partitions a topic has.", at_least=1)
    reply_partitions: int = setting(
        16, "How many partitions the topic of replies has; processes may share one.", at_least=1
    )
    window: int = setting(
        64, "How many messages of one partition are in hand at a time; a full window pauses the partition.", at_least=1
    )
    commit_interval_s: float = setting(
        0.5, "How often the offsets of handled messages are committed, in seconds.", at_least=0.001
    )
    drain_s: float = setting(
        10.0, "How long messages in hand may take to finish when the process stops, in seconds.", at_least=0.0
    )
    memory_retention_bytes: int = setting(
        64 * 1024 * 1024, "How much the in-memory log keeps per partition, in bytes.", at_least=1
    )
    drain_delay_s: float = setting(
        0.0,
        "How long a process that is told to stop says that it is not ready, and works on as before, in seconds: until load balancers notice. "
        "FISSILE_DRAIN_S begins after it.",
        at_least=0.0,
    )
    workers: int = setting(
        1,
        "How many processes serve the gateway's port, each on a core; only where the gateway is alone in its process.",
        at_least=1,
    )
    metrics_port: int = setting(
        0,
        "The port where the process answers /metrics, /livez and /readyz, for the inside of a network; 0 for none.",
        at_least=0,
    )
    metrics_host: str = setting("127.0.0.1", "The name or address of that port; 0.0.0.0 for all of the machine's.")
    sqlite_retention_bytes: int = setting(
        256 * 1024 * 1024, "How much the log in a file keeps per partition, in bytes.", at_least=1
    )
    sqlite_session_s: float = setting(
        10.0, "After which silence a process's partitions of the log in a file go to others, in seconds.", at_least=0.5
    )
    database: str = setting(
        "sqlite:///data",
        "Where modules keep their tables: sqlite:///folder (one file per module), or postgresql://user:password@host/database.",
    )
    database_prefix: str = setting(
        "",
        "What the names of schemas, roles and files begin with, so that applications and environments can share a server.",
    )
    database_migrate: bool = setting(
        default=False,
        help="Whether missing migrations are applied at start, as `fissile dev` does; otherwise the start refuses.",
    )
    database_connections: int = setting(
        10,
        "How many connections a module has to PostgreSQL, a quarter of them to read; on SQLite one writes and four read.",
        at_least=1,
    )
    database_threads: int = setting(
        16,
        "How many statements of a module run at a time, each in a worker thread; as many as it has connections at least.",
        at_least=1,
    )
    inbox_retention_s: float = setting(
        7 * 86_400.0,
        "How long a module with a database remembers which messages it has handled, in seconds.",
        at_least=60.0,
    )
    database_lock_s: float = setting(
        10.0, "How long a statement waits for a lock or a connection, in seconds.", at_least=0.001
    )
    database_connect_s: float = setting(
        5.0, "How long a connection to the database may take, in seconds.", at_least=0.001
    )
    sagas_running: int = setting(
        100, "How many sagas of a module run at a time in a process; those that wait are not counted.", at_least=1
    )
    saga_steps: int = setting(1000, "How many steps a saga may have.", at_least=1)
    saga_claim_s: float = setting(
        5.0, "After which silence of a process its sagas are gone on with by others, in seconds.", at_least=0.1
    )
    saga_retention_s: float = setting(
        7 * 86_400.0,
        "How long a saga that has ended, and an event that sagas may wait for, are kept, in seconds.",
        at_least=0.0,
    )
    identity_keys: tuple[str, ...] = secret(
        (),
        "What identities are signed with that go from process to process: one secret of 32 characters or more, or several with commas between "
        "(the first signs, all are accepted, so that they can be changed one after the other).",
    )
    identity_valid_s: float = setting(
        7 * 86_400.0, "How long the identity of a message is valid that waits in the log, in seconds.", at_least=1.0
    )
    kafka_prefix: str = setting(
        "",
        "What the names of topics and groups begin with, so that applications, environments and developers can share brokers.",
    )
    kafka_replication: int = setting(
        0, "How many copies Kafka keeps of a partition; 0: three, or one per broker.", at_least=0
    )
    kafka_instance: str = setting(
        "", "The name of this replica if it keeps it across restarts; it then gets its partitions back."
    )
    kafka_append_s: float = setting(
        20.0,
        "How long one try to store messages in Kafka may take, in seconds; above the 9 to 12 s after which Kafka replaces a dead node.",
        at_least=0.1,
    )
    kafka_revoke_s: float = setting(
        5.0, "How long a process may take to hand partitions over, in seconds; drain included.", at_least=0.0
    )
    kafka_session_s: float = setting(
        10.0, "After which silence Kafka gives a process's partitions to others, in seconds.", at_least=0.1
    )
    kafka_heartbeat_s: float = setting(1.0, "How often a process tells Kafka that it lives, in seconds.", at_least=0.01)
    kafka_stuck_s: float = setting(30.0, "After which silence a consumer is replaced, in seconds.", at_least=0.1)
    kafka_buffer_bytes: int = setting(
        64 * 1024 * 1024, "How much may be waiting to be stored in Kafka, in bytes.", at_least=1
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "PLAINTEXT", "Kafka's security protocol."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = setting(
        "SCRAM-SHA-512", "How the user proves who it is."
    )
    kafka_username: str = setting("", "Kafka's user.")
    kafka_password: str = secret("", "The password of Kafka's user.")
    kafka_oauth_token_file: str = setting(
        "", "The file with the token of OAUTHBEARER; it is read again for each connection."
    )
    kafka_oauth_token_url: str = setting(
        "", "The https:// endpoint that gives tokens for OAUTHBEARER (OAuth 2.0 client credentials)."
    )
    kafka_oauth_client_id: str = setting("", "The client id at that endpoint.")
    kafka_oauth_client_secret: str = secret("", "The client secret at that endpoint.")
    kafka_oauth_scope: str = setting("", "The scope to ask that endpoint for, if it wants one.")
    kafka_oauth_extensions: tuple[str, ...] = setting(
        (), "What goes to Kafka beside the token, as name=value, where a vendor wants it (KIP-342)."
    )
    kafka_oauth_ca: str = setting(
        "", "The file with the certificates that are trusted at that endpoint (PEM); else those of the system."
    )
    kafka_tls_ca: str = setting("", "The file with the certificates that are trusted (PEM); else those of the system.")
    kafka_tls_certificate: str = setting("", "The file with this client's certificate chain (PEM).")
    kafka_tls_key: str = setting("", "The file with its private key (PEM), where it is not in the same file.")
    kafka_tls_key_password: str = secret("", "The password of the private key.")


# --- where values come from ------------------------------------------------------------------------------------------


class Source(msgspec.Struct, frozen=True):
    """One place that settings come from.

    Attributes:
        name: What `fissile config` calls it.
        values: Raw values by the name of an environment variable, such as `FISSILE_PORT`.
    """

    name: str
    values: Mapping[str, Any]  # Any: strings from the environment, TOML values from a file


class Origin(msgspec.Struct, frozen=True):
    """One value of the settings and where it came from."""

    variable: str
    value: Any  # Any: of the field's type
    source: str
    help: str
    is_secret: bool

    def shown(self) -> str:
        """Return the value as text, masked if it is a secret."""
        return MASK if self.is_secret and self.value not in ("", None, ()) else str(self.value)


@frozen
class Sources:
    """All places that settings come from, the strongest first."""

    sources: tuple[Source, ...] = ()

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        command_line: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        toml: Mapping[str, Any] | None = None,
        toml_name: str = "pyproject.toml",
    ) -> Sources:
        """Read the sources of an application.

        Args:
            folder: The folder with `.env` and `.env.local`.
            command_line: Values given there, by the name of the environment variable.
            environment: The process environment unless told.
            toml: The table `[tool.fissile]`.
            toml_name: The file it came from.
        """
        sources = [Source("command line", dict(command_line or {})), Source("environment", environment or os.environ)]
        for name in (".env.local", ".env"):
            path = folder / name
            if path.is_file():
                from dotenv import dotenv_values  # not needed where there is no such file

                sources.append(Source(name, {k: v for k, v in dotenv_values(path).items() if v is not None}))
        sources.append(Source(toml_name, _from_toml(toml or {})))
        return cls(tuple(sources))

    def find(self, variable: str) -> tuple[Any, str] | None:
        """Return the strongest raw value of a variable and the name of its source."""
        for source in self.sources:
            if variable in source.values and source.values[variable] != "":
                return source.values[variable], source.name
        return None

    def unknown(self, known: set[str]) -> Iterator[tuple[str, str]]:
        """Yield each variable with our prefix that no settings class has, and its source."""
        for source in self.sources:
            for variable in source.values:
                if variable.startswith(PREFIX) and variable not in known and not variable.startswith(_READ_ELSEWHERE):
                    yield variable, source.name


def _from_toml(table: Mapping[str, Any]) -> dict[str, Any]:
    values = {variable_name(key): value for key, value in table.items() if key not in _DESCRIBED_IN_TOML}
    for module, entries in table.get("settings", {}).items():
        values.update({variable_name(key, module): value for key, value in entries.items()})
    if "gateway" in table:
        # A table per route reads better than one long value; the gateway checks what is in it.
        values[variable_name("route_limits")] = table["gateway"].get("routes", {})
        values.update({variable_name(key): value for key, value in table["gateway"].items() if key != "routes"})
    return values


def variable_name(field_name: str, module: str | None = None) -> str:
    """Return the environment variable of a field, such as `FISSILE_CODE_EXECUTOR_WALL_S`."""
    scope = f"{module}_" if module and module != "gateway" else ""
    return f"{PREFIX}{scope}{field_name}".replace("-", "_").upper()


# --- loading ---------------------------------------------------------------------------------------------------------


def load(cls: type[S], sources: Sources, module: str | None = None) -> tuple[S, tuple[Origin, ...]]:
    """Fill a settings class.

    Args:
        cls: A frozen attrs class.
        sources: Where values come from.
        module: The module that it belongs to, if it is not the runtime's.

    Raises:
        StartupFailed: Values are missing or of a wrong type; all of them are named.
    """
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    origins: list[Origin] = []
    faults: list[Fault] = []
    for attribute in attrs.fields(cls):  # type: ignore[arg-type]  # S is an attrs class; a type variable cannot say so
        variable = variable_name(attribute.name, module)
        help_text, is_secret = attribute.metadata.get("help", ""), attribute.metadata.get("secret", False)
        found = sources.find(variable)
        if found is not None:
            raw, source = found
            try:
                value = convert(raw, hints[attribute.name])
                problem = _too_small(attribute, value)
                if problem is not None:
                    raise ValueError(problem)
                values[attribute.name] = value
            except (ValueError, TypeError) as error:
                shown = MASK if is_secret else repr(raw)
                faults.append(
                    Fault(f"{variable}={shown} cannot be used: {error}.", source, f"{help_text or 'See its type.'}")
                )
                continue
        elif attribute.default is attrs.NOTHING:
            faults.append(
                Fault(f"{variable} is not set.", f"{cls.__module__}.{cls.__qualname__}", f"Set it. {help_text}".strip())
            )
            continue
        else:
            default = attribute.default
            values[attribute.name] = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
            source = "default"
        origins.append(Origin(variable, values[attribute.name], source, help_text, is_secret))
    if not faults:
        try:
            return cls(**values), tuple(origins)
        except (ValueError, TypeError) as error:
            faults.append(Fault(f"{error}.", f"{cls.__module__}.{cls.__qualname__}", "Change the setting."))
    raise StartupFailed(tuple(faults))


def convert(raw: Any, annotation: Any) -> Any:
    """Convert a raw value to a type.

    Raises:
        ValueError: It cannot be converted.
    """
    # Any: a value from a file or the environment, and a type expression.
    if isinstance(raw, str) and get_origin(annotation) is tuple:
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if isinstance(raw, str) and get_origin(annotation) is Mapping:
        raw = _from_json(raw)
    try:
        return msgspec.convert(raw, annotation, strict=False, dec_hook=_call)
    except msgspec.ValidationError as error:
        text = str(error)
        raise ValueError(text[:1].lower() + text[1:]) from None


def _from_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from None


def _call(kind: type, value: Any) -> Any:
    return kind(value)  # such as Path


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        StartupFailed: It is not valid TOML.
    """
    import tomllib  # not needed to import fissile

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupFailed((Fault(f"It is not valid TOML: {error}.", str(path), "Correct the file."),)) from None
