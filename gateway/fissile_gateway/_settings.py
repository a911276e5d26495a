"""The gateway's settings."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, frozen

from fissile import ModuleSettings, secret, setting

_AT_LEAST: dict[str, int] = dict.fromkeys(
    (
        "port",
        "max_body_bytes",
        "connections_per_address",
        "streams_per_client",
        "operations_per_client",
        "jwt_skew_s",
        "jwks_pause_s",
        "access_log_share",
    ),
    0,
)
_PORT_MAX = 65535
_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
_SECRET_CHARACTERS = 32


@frozen
class GatewaySettings(ModuleSettings):
    """Where the gateway listens, and what it grants to a client. The field `port` is read from `FISSILE_PORT`.

    Raises:
        ValueError: A number is out of its range.
    """

    host: str = setting("127.0.0.1", "The name or address to listen on; 0.0.0.0 for all of the machine's.")
    port: int = setting(8000, "The port to listen on; 0 takes a free one.")
    routes: str = setting(
        "gateway.app", "The package of the application's own routes; passed over where it does not exist."
    )
    api_version: str = setting("1", "The version that /openapi.json and /asyncapi.json tell of the interface.")
    api_documents: bool = setting(True, "Whether /openapi.json, /asyncapi.json and the page /api are there.")  # noqa: FBT003
    max_body_bytes: int = setting(
        0, "The size of a request's body, in bytes; 0 means that of a message (FISSILE_MAX_MESSAGE_BYTES)."
    )
    max_head_bytes: int = setting(16 * 1024, "The size of a request's line and fields together, in bytes.")
    connections_at_once: int = setting(12_000, "How many connections may be open; one more is answered 503.")
    connections_per_address: int = setting(
        1200, "How many of them one address may have that is no trusted proxy's; one more is answered 429. 0: all."
    )
    requests_at_once: int = setting(
        500, "How many requests may be in progress, streams not counted; one more is answered 503."
    )
    streams_at_once: int = setting(
        10_000, "How many event streams may be open, and as many WebSockets; one more is answered 503."
    )
    streams_per_client: int = setting(
        1000,
        "How many of each one client (identity, else address) may have open; one more is answered 429. 0: all.",
    )
    stream_queue_events: int = setting(
        1000, "How many events may wait for a slow client of a stream; its oldest are lost then."
    )
    stream_queue_bytes: int = setting(
        256 * 1024, "How many bytes of events may wait for a slow client of a stream; its oldest are lost then."
    )
    request_timeout_s: float = setting(30.0, "How long a request may take, its answer included, in seconds.")
    write_timeout_s: float = setting(30.0, "How long a client may take for each 64 KiB of an answer, in seconds.")
    keep_alive_s: float = setting(5.0, "How long a connection may idle between two requests, in seconds.")
    keep_alive_requests: int = setting(
        10_000,
        "After how many requests a connection ends, so that those of a balancer spread over workers and replicas anew.",
    )
    heartbeat_s: float = setting(15.0, "How often an idle event stream says that it is alive, in seconds.")
    idempotency_keep_s: float = setting(
        86_400.0, "How long the answer to a command with an Idempotency-Key is kept for repeats, in seconds."
    )
    idempotency_bytes: int = setting(
        16 * 1024 * 1024, "How much memory such answers may take, in bytes; the least recently used go first."
    )
    operations_at_once: int = setting(
        100, "How many commands may be in progress whose clients do not wait; one more is answered 503."
    )
    operations_per_client: int = setting(
        10, "How many of them one client (identity, else address) may have; one more is answered 429. 0: all."
    )
    operation_timeout_s: float = setting(3600.0, "How long such a command may take, in seconds.")
    operation_keep_s: float = setting(3600.0, "How long its outcome can be asked for, in seconds.")
    operation_bytes: int = setting(
        16 * 1024 * 1024, "How much memory outcomes may take, in bytes; the least recently used go first."
    )
    access_log: bool = setting(default=True, help="Whether each request is told in the log when it has been answered.")
    access_log_share: float = setting(
        1.0, "The share of answered requests that is told there, from 0 to 1; errors always are."
    )
    accept_traces: bool = setting(
        default=True,
        help="Whether a client's traceparent and tracestate (W3C) are gone on with; a new trace begins otherwise.",
    )
    metrics_token: str = secret(
        "",
        "The token that /metrics wants, of 32 characters or more; without one it is open only where the gateway listens to its own machine "
        "alone.",
    )
    listen_fds: tuple[int, ...] = setting(
        (), "Sockets that are listening already, as file descriptors, to be used instead of host and port."
    )
    workers_folder: str = setting(
        "", "Where workers of one port ask each other for what only one of them knows; `fissile run --workers` sets it."
    )
    finish_s: float = setting(
        8.0, "How long requests in progress may take when the process drains, in seconds; below FISSILE_DRAIN_S."
    )
    jwt_jwks: str = setting(
        "",
        "Where the keys are that tokens (JWT) are signed with: the file of a JWK set, its https:// URL, or a query of a module that tells "
        "it, such as bus:accounts.get-signing-keys.",
    )
    jwt_issuer: str = setting("", "Who has to have issued a token (iss).")
    jwt_audience: tuple[str, ...] = setting((), "For whom a token has to be (aud), one of these.")
    jwt_algorithms: tuple[str, ...] = setting(
        ("RS256", "PS256", "ES256", "EdDSA"), "The algorithms that a token may be signed with; asymmetric ones only."
    )
    jwt_secret: str = secret(
        "", "The key of tokens that are signed with HS256, of 32 characters or more; none are taken unless set."
    )
    jwt_skew_s: float = setting(30.0, "How far the clock of who issues tokens may be off, in seconds.")
    jwt_tenant_claim: str = setting("", "The claim of a token that says on whose behalf it is, if it has one.")
    jwks_max_age_s: float = setting(
        600.0, "How long the keys of tokens are used before they are fetched again, in seconds."
    )
    jwks_pause_s: float = setting(30.0, "How long they are not fetched again, whatever clients send, in seconds.")
    api_keys_file: str = setting(
        "", "The file with the API keys, as TOML or JSON; `fissile api-key new` makes a key and tells its lines."
    )
    api_keys_query: str = setting(
        "", "The query that tells whose an API key is by its SHA-256, such as accounts.find-api-token; beside the file."
    )
    anonymous_scopes: tuple[str, ...] = setting((), "What who does not say who they are may do.")

    def __attrs_post_init__(self) -> None:
        for attribute in _numbers():
            value, lowest = getattr(self, attribute.name), _AT_LEAST.get(attribute.name)
            if value < lowest if lowest is not None else value <= 0:
                raise ValueError(
                    f"{attribute.name} is {value}; it has to be {'positive' if lowest is None else f'{lowest} or more'}"
                )
        if not 0 <= self.access_log_share <= 1:
            raise ValueError(f"access_log_share is {self.access_log_share}; it has to be from 0 to 1")
        if self.port > _PORT_MAX:
            raise ValueError(f"port is {self.port}; the highest is {_PORT_MAX}")
        self._check_secrets()

    def _check_secrets(self) -> None:
        unknown = [name for name in self.jwt_algorithms if name not in _ALGORITHMS]
        if unknown or not self.jwt_algorithms:
            raise ValueError(
                f"jwt_algorithms has {', '.join(unknown) or 'none'}; there are {', '.join(_ALGORITHMS)} "
                "(HS256 is taken where jwt_secret is set)"
            )
        for name in ("jwt_secret", "metrics_token"):
            if 0 < len(getattr(self, name)) < _SECRET_CHARACTERS:
                raise ValueError(f"{name} has fewer than {_SECRET_CHARACTERS} characters, and can be guessed")
        if (self.jwt_jwks or self.jwt_secret) and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError(
                "jwt_issuer and jwt_audience have to be set where tokens are taken: otherwise one that was issued by or for somebody "
                "else would be good here"
            )


def _numbers() -> list[Attribute[Any]]:
    fields: tuple[Attribute[Any], ...] = getattr(GatewaySettings, "__attrs_attrs__", ())
    return [
        field for field in fields if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    ]
