"""SASL and TLS with client certificates, and that secrets are shown nowhere."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import Settings, StartupFailed
from fissile._clock import SystemClock
from fissile._errors import Unavailable
from fissile.transports.kafka import transport
from tests.brokers.apache import Cluster, start_apache, why_not
from tests.brokers.fixtures import skip_or_fail
from tests.transports.helpers import PATIENCE_S, all_of, numbers, opened, record, without_uvloop

PASSWORD = "correct-horse"
SECRETS: dict[str, Any] = {"kafka_password": PASSWORD, "kafka_tls_key_password": "battery-staple"}


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _certificates(folder: Path) -> None:
    """Make an authority, and a key with a certificate for the broker, for a client, and for one whom the broker lets do nothing."""
    _openssl(
        folder,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=ca",
    )
    for name in ("broker", "client", "stranger"):
        _openssl(
            folder,
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    (folder / "broker-both.pem").write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    _openssl(
        folder,
        "rsa",
        "-aes256",
        "-passout",
        f"pass:{SECRETS['kafka_tls_key_password']}",
        "-in",
        "client.key",
        "-out",
        "locked.key",
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """A broker that wants a client certificate and a user; and, elsewhere, only one of them."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    folder = tmp_path_factory.mktemp("tls")
    _certificates(folder)
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker-both.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.clients.ssl.client.auth": "required",  # without the prefix it counts for TLS without SASL only
        "listener.name.ssl.ssl.client.auth": "required",
        # Who may do something at all: with TLS alone the certificate is who the client is. Its other listeners are those of the broker itself.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ann;User:CN=client;User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        **{
            f"listener.name.{name}.plain.sasl.jaas.config": f'{plain} username="ann" password="{PASSWORD}" user_ann="{PASSWORD}";'
            for name in ("clients", "sasl_plaintext")
        },
        **{
            f"listener.name.{name}.scram-sha-{bits}.sasl.jaas.config": f"{scram} required;"
            for name in ("clients", "sasl_plaintext")
            for bits in (256, 512)
        },
    }
    users = [
        part for bits in (256, 512) for part in ("--add-scram", f"SCRAM-SHA-{bits}=[name=ann,password={PASSWORD}]")
    ]
    cluster = start_apache(
        properties=properties, format_arguments=users, protocol="SASL_SSL", others=("SSL", "SASL_PLAINTEXT")
    )
    yield cluster, folder
    cluster.end()


def _settings(folder: Path, mechanism: str) -> dict[str, Any]:
    return {
        "kafka_security": "SASL_SSL",
        "kafka_sasl_mechanism": mechanism,
        "kafka_username": "ann",
        "kafka_tls_ca": str(folder / "ca.pem"),
        "kafka_tls_certificate": str(folder / "client.pem"),
        "kafka_tls_key": str(folder / "locked.key"),
        **SECRETS,
    }


def _with_a_certificate(folder: Path, name: str = "client", key: str = "locked.key") -> dict[str, Any]:
    """Return the settings of who proves by a certificate who they are."""
    return {
        "kafka_security": "SSL",
        "kafka_tls_ca": str(folder / "ca.pem"),
        "kafka_tls_certificate": str(folder / f"{name}.pem"),
        "kafka_tls_key": str(folder / key),
        "kafka_tls_key_password": SECRETS["kafka_tls_key_password"],
    }


def _in_clear(mechanism: str) -> dict[str, Any]:
    """Return the settings of who proves it by a password, without TLS."""
    return {
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": mechanism,
        "kafka_username": "ann",
        "kafka_password": PASSWORD,
    }


async def _is_let_in(servers: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """See that something can be stored and read, and that no secret is shown."""
    caplog.set_level(logging.DEBUG)
    shown = ""
    with anyio.fail_after(PATIENCE_S):
        while not shown:  # the broker takes connections before it serves them
            try:
                async with opened(servers, **settings) as found:
                    await found.append([record(1)])
                    assert numbers(await all_of(found)) == [1]
                    shown = f"{found!r} {found.options!r} {found._producers.current()!r} {found.check()}"
            except Unavailable:
                await anyio.sleep(0.2)
    for secret in SECRETS.values():
        assert secret not in caplog.text
        assert secret not in shown


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_user_with_a_certificate_is_let_in(
    secured: tuple[Cluster, Path], mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, folder = secured
    await _is_let_in(cluster.servers, _settings(folder, mechanism), caplog)


@without_uvloop
async def test_a_certificate_alone_says_who_the_client_is(
    secured: tuple[Cluster, Path], caplog: pytest.LogCaptureFixture
) -> None:
    cluster, folder = secured
    await _is_let_in(cluster.others["SSL"], _with_a_certificate(folder), caplog)
    # One whom the same authority has made out to another is known, and may do nothing.
    with pytest.raises(Unavailable, match="uthoriz"):
        async with opened(cluster.others["SSL"], **_with_a_certificate(folder, "stranger", "stranger.key")):
            pass
    without = {**_with_a_certificate(folder), "kafka_tls_certificate": "", "kafka_tls_key": ""}
    with pytest.raises(Unavailable):
        async with opened(cluster.others["SSL"], **without):
            pass


@without_uvloop
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_user_is_let_in_without_tls(
    secured: tuple[Cluster, Path], mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, _ = secured
    server = cluster.others["SASL_PLAINTEXT"]
    await _is_let_in(server, _in_clear(mechanism), caplog)
    with pytest.raises(Unavailable):
        async with opened(server, **{**_in_clear(mechanism), "kafka_password": "wrong-horse"}):
            pass
    assert "horse" not in caplog.text


async def test_a_wrong_password_and_a_missing_certificate_are_refused(
    secured: tuple[Cluster, Path], caplog: pytest.LogCaptureFixture
) -> None:
    cluster, folder = secured
    right = _settings(folder, "SCRAM-SHA-512")
    for wrong in ({"kafka_password": "wrong-horse"}, {"kafka_tls_certificate": "", "kafka_tls_key": ""}):
        with pytest.raises(Unavailable) as caught:
            async with opened(cluster.servers, **{**right, **wrong}):
                pass
        assert "horse" not in str(caught.value) + caplog.text


def test_faults_of_the_settings_are_told_together_without_secrets() -> None:
    url = f"kafka://ann:{PASSWORD}@broker"
    settings = Settings(bus=url, kafka_security="SASL_SSL", kafka_tls_ca="nowhere.pem", kafka_password=PASSWORD)
    with pytest.raises(StartupFailed) as caught:
        transport(settings, SystemClock())
    text = str(caught.value)
    for name in ("FISSILE_BUS", "FISSILE_KAFKA_USERNAME", "FISSILE_KAFKA_TLS_CA"):
        assert name in text
    assert PASSWORD not in text


def test_secrets_are_masked_in_the_options() -> None:
    settings = Settings(bus="kafka://a:1,b", kafka_security="SASL_PLAINTEXT", kafka_username="ann", **SECRETS)
    made = transport(settings, SystemClock())
    assert made.options.servers == ("a:1", "b:9092")
    for shown in (repr(made), repr(made.options), repr(settings)):
        assert not any(secret in shown for secret in SECRETS.values())
