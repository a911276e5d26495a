"""What the Kafka transport is told: the brokers of the URL, names, bounds and security from the settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from fissile._errors import Fault, StartupFailed
from fissile._settings import MASK, Settings
from fissile.transports._kafka_tokens import Tokens, TokenSource

OVERHEAD_BYTES = 65_536
"""What key and headers may add to a message of the largest size: those of a dead letter have its traceback. As on the other transports."""
BATCH_BYTES = 256 * 1024
"""The size of a batch. aiokafka's default of 16 KiB costs three quarters of the rate at 512 requests in flight."""


def _masked(_: object) -> str:
    return MASK


@frozen
class Security:
    """How clients prove who they are, and whom they trust.

    Attributes:
        protocol: Kafka's name of it: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        mechanism: The SASL mechanism.
        username: The user.
        password: The user's password.
        tokens: Where the tokens of OAUTHBEARER come from.
        ca: The file with the certificates that are trusted, else those of the system.
        certificate: The file with the client's certificate chain.
        key: The file with its private key.
        key_password: The password of that file.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=_masked)
    tokens: TokenSource = TokenSource()
    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: str = field(default="", repr=_masked)

    @property
    def is_oauth(self) -> bool:
        """Whether clients prove who they are by a token."""
        return self.protocol.startswith("SASL") and self.mechanism == "OAUTHBEARER"

    def faults(self) -> list[Fault]:
        """Return what is wrong with it; no text has a secret in it."""
        faults: list[Fault] = []
        if self.is_oauth:
            faults += self.tokens.faults()
        elif self.protocol.startswith("SASL") and not (self.username and self.password):
            what = f"FISSILE_KAFKA_SECURITY={self.protocol} needs a user and a password."
            faults.append(Fault(what, "FISSILE_KAFKA_USERNAME", "Set it, and FISSILE_KAFKA_PASSWORD."))
        if self.key and not self.certificate:
            faults.append(
                Fault("There is a private key and no certificate.", "FISSILE_KAFKA_TLS_CERTIFICATE", "Set it too.")
            )
        for name, file in (("CA", self.ca), ("CERTIFICATE", self.certificate), ("KEY", self.key)):
            if file and not Path(file).is_file():
                faults.append(Fault(f"There is no file {file}.", f"FISSILE_KAFKA_TLS_{name}", "Correct the path."))
        return faults


@frozen
class Options:
    """What the clients are made with.

    Attributes:
        servers: The brokers to begin with, as host:port.
        client_id: What brokers call the clients of this process in logs, quotas and lists of members.
        prefix: What the names of topics and groups begin with, so that applications and developers can share brokers.
        replication: How many copies of a partition there are; 0 for three, or as many as there are brokers.
        instance: The name of this replica if it has a stable one (KIP-345, static membership).
        append_s: How long one try to store a batch may take, in seconds.
        revoke_s: How long a member may take to hand its partitions over, in seconds.
        session_s: After which silence a member is thought dead, in seconds.
        heartbeat_s: How often a member says that it lives, in seconds.
        stuck_s: After which silence a member or a reader is replaced, in seconds.
        max_record_bytes: The largest record: value, key and headers.
        buffer_bytes: How much may be waiting to be stored.
        security: How clients prove who they are.
        tokens: The tokens of OAUTHBEARER, which all clients share.
    """

    servers: tuple[str, ...]
    client_id: str = "fissile"
    prefix: str = ""
    replication: int = 0
    instance: str = ""
    append_s: float = 20.0
    revoke_s: float = 5.0
    session_s: float = 10.0
    heartbeat_s: float = 1.0
    stuck_s: float = 30.0
    max_record_bytes: int = 1024 * 1024 + OVERHEAD_BYTES
    buffer_bytes: int = 64 * 1024 * 1024
    security: Security = Security()
    tokens: Tokens | None = field(default=None, repr=False)

    @property
    def rebalance_s(self) -> float:
        """How long a group waits for a member that does not hand over, in seconds."""
        return max(self.session_s, self.revoke_s + 2.0)

    @property
    def request_s(self) -> float:
        """How long a broker may take to answer, in seconds. A group holds back its answer to who joins until all members have."""
        return self.rebalance_s + 2.0

    def client(self) -> dict[str, Any]:  # Any: keyword arguments of an untyped library
        """Return the arguments that all of aiokafka's clients share."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": self.client_id,
            "request_timeout_ms": milliseconds(self.request_s),
            "security_protocol": self.security.protocol,
        }
        if self.security.is_oauth:
            assert self.tokens is not None
            arguments["sasl_mechanism"] = self.security.mechanism
            arguments["sasl_oauth_token_provider"] = self.tokens.provider()
        elif self.security.protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.security.mechanism
            arguments["sasl_plain_username"] = self.security.username
            arguments["sasl_plain_password"] = self.security.password
        return arguments


def milliseconds(seconds: float) -> int:
    """Return seconds as Kafka has them."""
    return math.ceil(seconds * 1000)


def options_of(settings: Settings) -> Options:
    """Read the options from the settings.

    Raises:
        StartupFailed: They have faults.
    """
    url = urlsplit(settings.bus)
    faults: list[Fault] = []
    if "@" in url.netloc:
        # The URL is shown to people, and is in logs; so the fault does not repeat it.
        faults.append(
            Fault(
                "The URL has a password in it.", "FISSILE_BUS", "Use FISSILE_KAFKA_USERNAME and FISSILE_KAFKA_PASSWORD."
            )
        )
    servers = tuple(server if ":" in server else f"{server}:9092" for server in url.netloc.split(",") if server)
    if not servers:
        faults.append(Fault("The URL names no broker.", "FISSILE_BUS", "Write kafka://host:9092."))
    security = Security(
        protocol=settings.kafka_security,
        mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_username,
        password=settings.kafka_password,
        tokens=TokenSource(
            file=settings.kafka_oauth_token_file,
            url=settings.kafka_oauth_token_url,
            client_id=settings.kafka_oauth_client_id,
            client_secret=settings.kafka_oauth_client_secret,
            scope=settings.kafka_oauth_scope,
            extensions=settings.kafka_oauth_extensions,
            ca=settings.kafka_oauth_ca,
        ),
        ca=settings.kafka_tls_ca,
        certificate=settings.kafka_tls_certificate,
        key=settings.kafka_tls_key,
        key_password=settings.kafka_tls_key_password,
    )
    faults += security.faults()
    if faults:
        raise StartupFailed(tuple(faults))
    return Options(
        servers=servers,
        prefix=settings.kafka_prefix,
        replication=settings.kafka_replication,
        instance=settings.kafka_instance,
        append_s=settings.kafka_append_s,
        revoke_s=settings.kafka_revoke_s,
        session_s=settings.kafka_session_s,
        heartbeat_s=settings.kafka_heartbeat_s,
        stuck_s=settings.kafka_stuck_s,
        max_record_bytes=settings.max_message_bytes + OVERHEAD_BYTES,
        buffer_bytes=settings.kafka_buffer_bytes,
        security=security,
        tokens=Tokens(security.tokens) if security.is_oauth else None,
    )
