"""SASL OAUTHBEARER: tokens from a file that is renewed, and from an endpoint; they are shared, renewed in time, and shown nowhere."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import anyio
import pytest
from attrs import define, field

from fissile import Settings, StartupFailed
from fissile._clock import SystemClock
from fissile._errors import CallError, Unavailable
from fissile.transports.kafka import transport
from tests.brokers.apache import Cluster, start_apache, why_not
from tests.brokers.fixtures import skip_or_fail
from tests.transports.helpers import PATIENCE_S, opened, record, until, without_uvloop

SECRET = "correct horse/battery+staple"
LIFE_S = 4.0
"""How long tokens hold, in seconds."""


def token(subject: str = "ann", life_s: float = 3600.0) -> str:
    """A token that nobody has signed, as Kafka's own default takes it."""
    claims = {"sub": subject, "iat": time.time() - 1, "exp": time.time() + life_s}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return "".join(urlsafe_b64encode(part).decode().rstrip("=") + "." for part in parts)


@define
class Endpoint:
    """A token endpoint (RFC 6749, section 4.4).

    Attributes:
        url: Where it is.
        answer: What it answers: a status, headers and a body.
        given: The tokens that it has given.
        asked: The forms that came.
    """

    url: str
    answer: Callable[[], tuple[int, dict[str, str], bytes]] | None = None
    given: list[str] = field(factory=list[str])
    asked: list[dict[str, list[str]]] = field(factory=list[dict[str, list[str]]])

    def reply(self, authorization: str, form: str) -> tuple[int, dict[str, str], bytes]:
        if self.answer is not None:
            return self.answer()
        user, _, password = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote_plus(user), unquote_plus(password)) != ("ann & co", SECRET):
            return 401, {}, b'{"error": "invalid_client", "error_description": "who is that?"}'
        self.asked.append(parse_qs(form))
        self.given.append(token(life_s=LIFE_S))
        return (
            200,
            {},
            json.dumps({"access_token": self.given[-1], "token_type": "Bearer", "expires_in": LIFE_S}).encode(),
        )


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Generator[Endpoint]:
    """A token endpoint on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, headers, body = found.reply(self.headers.get("Authorization", ""), form)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:  # not to stderr
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        found = Endpoint(f"{scheme}://127.0.0.1:{server.server_port}/token")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint is on this machine, whatever the environment says."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def asking() -> Iterator[Cluster]:
    """A broker that wants tokens, and that ends a connection when its token has."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    package = "org.apache.kafka.common.security"
    plain = f'{package}.plain.PlainLoginModule required username="node" password="n" user_node="n";'
    login = f'{package}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="node";'
    properties = {
        "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.clients.plain.sasl.jaas.config": plain,
        "listener.name.clients.oauthbearer.sasl.jaas.config": login,
        "listener.name.clients.oauthbearer.connections.max.reauth.ms": "60000",
    }
    cluster = start_apache(properties=properties, protocol="SASL_PLAINTEXT")
    yield cluster
    cluster.end()


def by_file(file: Path) -> dict[str, Any]:
    """The settings of who reads its tokens from a file."""
    return {
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_oauth_token_file": str(file),
        "kafka_oauth_extensions": ("traceId=1",),
    }


def by_endpoint(url: str, **more: Any) -> dict[str, Any]:
    """The settings of who asks an endpoint for tokens."""
    return {
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_oauth_token_url": url,
        "kafka_oauth_client_id": "ann & co",
        "kafka_oauth_client_secret": SECRET,
        "kafka_oauth_scope": "kafka write",
        **more,
    }


async def _when_it_serves(servers: str, settings: dict[str, Any]) -> None:
    """Connect and store something; the broker takes connections before it serves them."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                async with opened(servers, **settings) as found:
                    await found.append([record(1)])
                    return
            except Unavailable:
                await anyio.sleep(0.2)


async def test_a_token_from_a_file_lets_in_and_is_read_again_when_it_is_renewed(
    asking: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file, good = tmp_path / "token", token()
    file.write_text(f"{good}\n")
    await _when_it_serves(asking.servers, by_file(file))
    file.write_text(token(life_s=-60.0))
    with pytest.raises(Unavailable, match="Kafka refuses the token"):
        async with opened(asking.servers, **by_file(file)):
            pass
    file.write_text("two words")
    with pytest.raises(Unavailable, match="what is there is no bearer token"):
        async with opened(asking.servers, **by_file(file)):
            pass
    file.write_text(good)
    async with opened(asking.servers, **by_file(file)) as found:
        await found.append([record(2)])
        assert found.check() is None
        assert good not in repr(found)
    assert good not in caplog.text
    assert "two words" not in caplog.text


@without_uvloop
async def test_a_token_of_an_endpoint_is_shared_and_renewed_before_it_ends(
    asking: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with served() as endpoint:
        settings = by_endpoint(endpoint.url)
        await _when_it_serves(asking.servers, settings)
        endpoint.given.clear()
        async with (
            opened(asking.servers, partitions=1, **settings) as found,
            found.read([("t", 0)], "latest") as reader,
        ):
            stored = 0
            end = anyio.current_time() + 2.5 * LIFE_S
            while anyio.current_time() < end:
                try:
                    await found.append([record(stored, partition=0)])
                    stored += 1
                except CallError as error:
                    pytest.fail(f"not stored: {error}")
                await anyio.sleep(0.05)
            received = 0
            with anyio.fail_after(PATIENCE_S):
                while received < stored:
                    received += len(await reader.receive())
            assert received == stored
            shown = f"{found!r} {found.options!r} {settings!r}".replace(repr(SECRET), "")
        assert endpoint.asked[0] == {"grant_type": ["client_credentials"], "scope": ["kafka write"]}
        assert 2 <= len(endpoint.given) <= 6  # not one for each connection, nor one for each try
        for secret in (SECRET, *endpoint.given):
            assert secret not in caplog.text
            assert secret not in shown


@without_uvloop
async def test_an_endpoint_that_is_away_is_told_while_there_is_no_token_and_no_longer(asking: Cluster) -> None:
    with served() as endpoint:
        settings = by_endpoint(endpoint.url)
        await _when_it_serves(asking.servers, settings)
        async with opened(asking.servers, **settings) as found:
            assert found.check() is None
            endpoint.answer = lambda: (503, {}, b"")
            await until(lambda: "/token: it answers 503" in (found.check() or ""), "the endpoint is missed")
            endpoint.answer = None
            await until(lambda: found.check() is None, "all is well")
            await found.append([record(1)])


LARGE = b'{"access_token": "' + b"a" * 300_000 + b'"}'


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b'{"error": "invalid_client", "error_description": "echo"}', r"it answers 401 \(invalid_client\)"),
        (400, b'{"error": "echo <script>"}', r"it answers 400\."),
        (500, b"echo", "it answers 500"),
        (200, b"echo", r"the answer cannot be read \(DecodeError\)"),
        (200, b"\xff\xfeecho", "the answer cannot be read"),
        (200, b'{"access_token": 5}', "the answer cannot be read"),
        (200, b'{"access_token": "a echo"}', "what is there is no bearer token"),
        (200, b'{"access_token": "a\\u0001echo"}', "what is there is no bearer token"),
        (200, b"{}", "what is there is no bearer token"),
        (200, b'{"access_token": "abc", "token_type": "mac"}', "another type than Bearer"),
        (200, LARGE, "larger than 262144 bytes"),
    ],
)
async def test_what_an_endpoint_answers_instead_of_a_token_is_told_and_not_repeated(
    status: int, body: bytes, told: str, caplog: pytest.LogCaptureFixture, asking: Cluster
) -> None:
    caplog.set_level(logging.DEBUG)
    with served() as endpoint:
        endpoint.answer = lambda: (status, {}, body)
        with pytest.raises(Unavailable, match=told) as caught:
            async with opened(asking.servers, **by_endpoint(endpoint.url)):
                pass
    for secret in (SECRET, "echo", "aaaaaaaa"):
        assert secret not in str(caught.value) + caplog.text


async def test_an_endpoint_is_followed_nowhere(asking: Cluster) -> None:
    with served() as other, served() as endpoint:
        endpoint.answer = lambda: (307, {"Location": other.url}, b"")
        with pytest.raises(Unavailable, match="it answers 307"):
            async with opened(asking.servers, **by_endpoint(endpoint.url)):
                pass
        assert other.given == []


def _certified(folder: Path) -> ssl.SSLContext:
    """Make a certificate that nobody has signed but itself."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "ca.pem"]
    command += ["-days", "2", "-subj", "/CN=endpoint", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def test_an_endpoint_is_trusted_by_its_certificate_only(asking: Cluster, tmp_path: Path) -> None:
    with served(_certified(tmp_path)) as endpoint:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            async with opened(asking.servers, **by_endpoint(endpoint.url)):
                pass
        assert endpoint.given == []
        await _when_it_serves(asking.servers, by_endpoint(endpoint.url, kafka_oauth_ca=str(tmp_path / "ca.pem")))
        assert endpoint.given != []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs a file with the token, or an endpoint"),
        ({"kafka_oauth_token_file": "nowhere"}, "There is no file nowhere"),
        ({"kafka_oauth_token_url": "http://tokens.example/t"}, "in the clear"),
        ({"kafka_oauth_token_url": f"https://ann:{SECRET}@tokens.example"}, "has a password in it"),
        ({"kafka_oauth_token_url": "https://tokens.example"}, "needs a client id and a secret"),
        ({"kafka_oauth_token_file": "f", "kafka_oauth_token_url": "https://tokens.example"}, "and not both"),
        ({"kafka_oauth_extensions": ("auth=x",)}, "no extension of OAUTHBEARER"),
        ({"kafka_oauth_ca": "nowhere", "kafka_oauth_token_url": "https://tokens.example"}, "There is no file nowhere"),
    ],
)
def test_faults_of_the_settings_are_told_at_start_without_secrets(settings: dict[str, Any], told: str) -> None:
    given = {"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER", **settings}
    with pytest.raises(StartupFailed, match=told) as caught:
        transport(Settings(bus="kafka://broker", **given), SystemClock())
    assert SECRET not in str(caught.value)
