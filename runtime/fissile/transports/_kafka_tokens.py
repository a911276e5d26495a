"""The tokens of SASL OAUTHBEARER (KIP-255, RFC 7628): from a file that somebody renews, or from an endpoint (RFC 6749, section 4.4).

Files and endpoints are read in a thread, within bounds. No token and no secret is in a text, an error or a log. aiokafka asks for a token
for each connection; it does not prove itself again on one that is open (KIP-368), so a broker that wants that closes it, and the next has
the next token.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from base64 import b64encode
from functools import cache
from http.client import HTTPException
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec
from attrs import field, frozen

from fissile._errors import Fault
from fissile._settings import MASK

_PATIENCE_S = 5.0
"""How long each step of a question to the endpoint may take, in seconds."""
_WHOLE_S = 10.0
"""How long all of it may take, in seconds."""
_LARGEST_BYTES = 256 * 1024
"""The size of a file or an answer; Kafka takes half a MiB."""
_REUSED = 0.8
"""Which part of its life a token is used for; then another is fetched, while this one still holds."""
_LIFE_S = 60.0
"""How long a token is used of which the endpoint does not say how long it holds, in seconds."""
_PAUSE_S = 1.0
"""How long after a failure the endpoint is left alone, in seconds. Connections are tried several times a second."""
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""RFC 6750, section 2.1. Nothing else can be put between the separators of OAUTHBEARER."""
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")


class TokenUnavailable(OSError):
    """There is no token. An OSError, because that is what aiokafka expects of a connection that cannot be made."""


class _Answer(msgspec.Struct):
    """What the endpoint says (RFC 6749, sections 5.1 and 5.2)."""

    access_token: str = ""
    token_type: str = "bearer"  # noqa: S105 -- the name of a kind
    expires_in: float | None = None
    error: str = ""


@frozen
class TokenSource:
    """Where tokens come from: a file or an endpoint.

    Attributes:
        file: The file with the token.
        url: The endpoint.
        client_id: Who we are there.
        client_secret: How we prove it.
        scope: What is asked for.
        extensions: What goes to Kafka beside the token, as name=value (KIP-342).
        ca: The file with the certificates that are trusted at the endpoint, else those of the system.
    """

    file: str = ""
    url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=lambda _: MASK)
    scope: str = ""
    extensions: tuple[str, ...] = ()
    ca: str = ""

    def faults(self) -> list[Fault]:
        """Return what is wrong with it."""
        faults: list[Fault] = []
        if bool(self.file) == bool(self.url):
            what = "OAUTHBEARER needs a file with the token, or an endpoint that gives tokens, and not both."
            faults.append(Fault(what, "FISSILE_KAFKA_OAUTH_TOKEN_FILE", "Set it, or FISSILE_KAFKA_OAUTH_TOKEN_URL."))
        if self.file and not Path(self.file).is_file():
            faults.append(
                Fault(f"There is no file {self.file}.", "FISSILE_KAFKA_OAUTH_TOKEN_FILE", "Correct the path.")
            )
        if self.url:
            faults += self._faults_of_endpoint()
        for extension in self.extensions:
            name, equals, value = extension.partition("=")
            if not (equals and name.isalpha() and value.isprintable()) or name == "auth":
                what = f"{extension!r} is no extension of OAUTHBEARER."
                faults.append(Fault(what, "FISSILE_KAFKA_OAUTH_EXTENSIONS", "Write name=value; the name has letters."))
        return faults

    def _faults_of_endpoint(self) -> list[Fault]:
        faults: list[Fault] = []
        url = urlsplit(self.url)
        if "@" in self.url:
            what = "The URL of the endpoint has a password in it."  # so it is not repeated
            faults.append(Fault(what, "FISSILE_KAFKA_OAUTH_TOKEN_URL", "Use FISSILE_KAFKA_OAUTH_CLIENT_SECRET."))
        elif url.scheme != "https" and not (url.scheme == "http" and _is_this_machine(url.hostname or "")):
            what = f"{self.url} would be sent the client secret in the clear."
            faults.append(Fault(what, "FISSILE_KAFKA_OAUTH_TOKEN_URL", "Use https://."))
        if not (self.client_id and self.client_secret):
            what = "The endpoint of tokens needs a client id and a secret."
            cure = "Set it, and FISSILE_KAFKA_OAUTH_CLIENT_SECRET."
            faults.append(Fault(what, "FISSILE_KAFKA_OAUTH_CLIENT_ID", cure))
        if self.ca and not Path(self.ca).is_file():
            faults.append(Fault(f"There is no file {self.ca}.", "FISSILE_KAFKA_OAUTH_CA", "Correct the path."))
        return faults

    def read(self) -> tuple[str, float]:
        """Get a token; it blocks, so it belongs in a thread.

        Returns:
            The token, and how long it holds, in seconds; 0 for one from a file, which is read again each time.

        Raises:
            TokenUnavailable: There is none.
        """
        try:
            return (self._of_file(), 0.0) if self.file else self._of_endpoint()
        except (OSError, HTTPException, ValueError, msgspec.DecodeError) as error:
            if isinstance(error, TokenUnavailable):
                raise
            raise TokenUnavailable(f"No token from {self.file or self.url}: {_told(error)}.") from None

    def _of_file(self) -> str:
        with Path(self.file).open("rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
        return self._checked(text.decode("ascii", "replace").strip())

    def _of_endpoint(self) -> tuple[str, float]:
        from urllib.request import Request  # not needed where nobody asks for tokens

        credentials = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"  # section 2.3.1
        form = {"grant_type": "client_credentials", **({"scope": self.scope} if self.scope else {})}
        headers = {
            "Authorization": f"Basic {b64encode(credentials.encode()).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        request = Request(self.url, urlencode(form).encode(), headers, method="POST")  # noqa: S310 -- checked: http(s)
        status, body = _ask(request, self.ca)
        if len(body) > _LARGEST_BYTES:
            raise TokenUnavailable(f"No token from {self.url}: the answer is larger than {_LARGEST_BYTES} bytes.")
        if status != 200:
            code = _error_code(body)
            raise TokenUnavailable(f"No token from {self.url}: it answers {status}{f' ({code})' if code else ''}.")
        answer = msgspec.json.decode(body, type=_Answer)
        if answer.token_type.lower() != "bearer":
            raise TokenUnavailable(f"No token from {self.url}: it gives tokens of another type than Bearer.")
        return self._checked(answer.access_token), _LIFE_S if answer.expires_in is None else answer.expires_in

    def _checked(self, token: str) -> str:
        if len(token) > _LARGEST_BYTES or _TOKEN.fullmatch(token) is None:
            raise TokenUnavailable(f"No token from {self.file or self.url}: what is there is no bearer token.")
        return token


def _ask(request: Any, ca: str) -> tuple[int, bytes]:  # Any: a class that is not imported before it is needed
    """Ask the endpoint once, and follow it nowhere: it would be shown the secret. Return the status and the body, or the beginning of it."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object, **__: object) -> None:
            return None

    opener = build_opener(Stay, HTTPSHandler(context=ssl.create_default_context(cafile=ca or None)))
    end = time.monotonic() + _WHOLE_S
    response: Any
    try:
        response = opener.open(request, timeout=_PATIENCE_S)
    except HTTPError as error:
        response = error
    with response:
        body = b""
        while len(body) <= _LARGEST_BYTES and time.monotonic() < end:
            part: bytes = response.read1(65_536)  # what has come, so that the bound is looked at
            if not part:
                return int(response.status), body
            body += part
        if len(body) <= _LARGEST_BYTES:
            raise TimeoutError(f"no whole answer within {_WHOLE_S:g} s")
        return int(response.status), body


def _error_code(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body, type=_Answer).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return found if _ERROR_CODE.fullmatch(found) else ""


def _told(error: Exception) -> str:
    """Return what is told of an error: of one in decoding only its kind, since its text may have a part of the answer."""
    if isinstance(error, (ValueError, msgspec.DecodeError)) and not isinstance(error, OSError):
        return f"the answer cannot be read ({type(error).__name__})"
    return str(error) or type(error).__name__


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Tokens:
    """The tokens of a transport, in the loop. All its clients share them, so that the endpoint is asked once in a token's life.

    Args:
        source: Where they come from.
    """

    def __init__(self, source: TokenSource) -> None:
        self._failure: str | None = None
        self._source = source
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._quiet_until = 0.0
        self._reading: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why there is no token; None if there is one that holds, or nobody has asked yet."""
        return self._failure if time.monotonic() >= self._ends_at else None

    async def token(self) -> str:
        """Return a token that holds.

        Raises:
            TokenUnavailable: There is none.
        """
        if not self._token or time.monotonic() >= self._renew_at:
            if time.monotonic() >= self._quiet_until:
                await self._read()
            problem = self.problem
            if problem is not None:
                raise TokenUnavailable(problem)
        return self._token

    async def _read(self) -> None:
        """Get another one; all who want one meanwhile wait for the same try."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read_once())
        await asyncio.wait((self._reading,))

    async def _read_once(self) -> None:
        try:
            async with asyncio.timeout(_WHOLE_S):
                token, life_s = await asyncio.to_thread(self._source.read)
        except (TokenUnavailable, TimeoutError) as error:
            self._failure = str(error) or f"No token from {self._source.url} within {_WHOLE_S:g} s."
            self._quiet_until = time.monotonic() + _PAUSE_S
        else:
            self._failure, self._token = None, token
            self._renew_at, self._ends_at = time.monotonic() + _REUSED * life_s, time.monotonic() + life_s
        finally:
            self._reading = None

    def provider(self) -> object:
        """Return this as aiokafka wants it."""
        extensions = dict(extension.split("=", 1) for extension in self._source.extensions)
        tokens = self

        async def token(_: object) -> str:
            return await tokens.token()

        def told(_: object) -> dict[str, str]:
            return extensions

        def refuse(_: object) -> None:
            tokens.refuse()

        _listen_for_refusals()
        methods: dict[str, object] = {"token": token, "extensions": told, "refuse": refuse}
        found: object = type("Provider", (import_module("aiokafka.abc").AbstractTokenProvider,), methods)()
        return found

    def refuse(self) -> None:
        """Learn that Kafka does not take the token: the next connection gets another one, or this after a pause."""
        self._failure = "Kafka refuses the token."
        self._renew_at = self._ends_at = 0.0
        self._quiet_until = time.monotonic() + _PAUSE_S


@cache
def _listen_for_refusals() -> None:
    """Let aiokafka notice that a token is refused.

    The broker says so in a message that the client has to answer before it fails (RFC 7628, section 3.2.3). aiokafka 0.14 takes it for success,
    sends its first request, and waits for the answer until it gives up.
    """
    authenticator: Any = import_module("aiokafka.conn").OAuthAuthenticator  # Any: the library has no types
    step = authenticator.step

    async def listening(self: Any, payload: bytes | None) -> tuple[bytes, bool] | None:
        if self._token_sent and payload:
            refuse = getattr(self._sasl_oauth_token_provider, "refuse", None)
            if refuse is not None:
                refuse()
            return b"\x01", True
        found: tuple[bytes, bool] | None = await step(self, payload)
        return found

    authenticator.step = listening
