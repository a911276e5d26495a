"""What the HTTP server lets in.

Hypercorn translates between h11 and ASGI; nothing in it judges a request beyond what h11 rejects. The rules here close
what is left open: where two servers in a row may read one message in two ways (RFC 9112 sections 2.2, 5.2 and 6.1, the
ground of request smuggling), where a size has no bound, and where cleartext HTTP/1.1 turns into something else.

The rules are plain functions over bytes and h11 events.
"""

import json
import ssl
from collections.abc import Collection, Iterable
from http import HTTPStatus

import attrs
import h11

_PROBLEMS = {
    400: "malformed-request",
    408: "request-timeout",
    413: "body-too-large",
    414: "url-too-long",
    417: "expectation-failed",
    429: "too-many-requests",
    431: "head-too-large",
    500: "internal-error",
    501: "not-implemented",
    503: "overloaded",
    505: "http-version-not-supported",
}
"""What kind of problem it is when the server answers by itself; where the gateway has the same problem, it has the same name."""

_FIELD_BYTES = len(b": \r\n")
_CHUNK_OVERHEAD = 16
"""A chunk of one byte takes six."""


@attrs.frozen(kw_only=True)
class ServerSettings:
    """Where the server listens and what it grants to a client.

    Attributes:
        host: Name or address to listen on; a name with several addresses listens on all of them.
        port: Port to listen on; 0 takes any free one.
        backlog: Connections the kernel queues until they are accepted.
        max_connections: Connections open at once; one more is answered 503 and closed.
        max_connections_per_address: Those of one client's address; one more is answered 429 and closed. 0: all.
        head_timeout_s: Time for a whole request head, from its first byte (or the connection's begin) to its last.
        keep_alive_s: Time a connection may stay open between an answer and the next request.
        keep_alive_requests: Requests after which a connection ends; of HTTP/2 when none is in progress.
        read_timeout_s: Time for each 64 KiB of a request's body, or for what is left of it.
        write_timeout_s: Time for the client to take each 64 KiB of an answer.
        max_head_bytes: Size of request line and fields together, with their line ends.
        max_head_fields: Number of field lines in a head.
        max_target_bytes: Size of the target in the request line, path and query.
        max_body_bytes: Size of a request's body, whether announced or chunked.
        tls: Makes connections secure; without, they are not.
        tls_handshake_s: Time for a TLS handshake.
        http2_streams: Requests that an HTTP/2 connection may have in progress.
        drain_s: Time for requests in progress to finish when the server drains; what remains is cut off.
        listen_fds: Sockets that are listening already, as file descriptors, to be used instead of host and port.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8000, validator=[attrs.validators.ge(0), attrs.validators.le(65535)])
    backlog: int = attrs.field(default=1024, validator=attrs.validators.gt(0))
    max_connections: int = attrs.field(default=1000, validator=attrs.validators.gt(0))
    max_connections_per_address: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    head_timeout_s: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    keep_alive_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    keep_alive_requests: int = attrs.field(default=10_000, validator=attrs.validators.gt(0))
    read_timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    write_timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=attrs.validators.gt(0))
    max_head_fields: int = attrs.field(default=100, validator=attrs.validators.gt(0))
    max_body_bytes: int = attrs.field(default=1024 * 1024, validator=attrs.validators.ge(0))
    max_target_bytes: int = attrs.field(default=8 * 1024, validator=attrs.validators.gt(0))
    tls: ssl.SSLContext | None = None
    tls_handshake_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    http2_streams: int = attrs.field(default=50, validator=attrs.validators.gt(0))
    drain_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    listen_fds: tuple[int, ...] = ()


class Refusal(Exception):
    """Raised when a client sent what the server does not accept; the connection ends with this answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status} {HTTPStatus(status).phrase}: {detail}")
        self.status = status
        self.detail = detail


def problem(status: int, detail: str) -> bytes:
    """Write a problem details document (RFC 9457)."""
    name = _PROBLEMS.get(status, HTTPStatus(status).phrase.lower().replace(" ", "-"))
    title = name.replace("-", " ").capitalize()
    document = {"type": f"/problems/{name}", "title": title, "status": status, "detail": detail}
    return json.dumps(document).encode()


def problem_answer(status: int, detail: str) -> bytes:
    """Write a whole HTTP/1.1 answer with a problem details document that ends its connection."""
    body = problem(status, detail)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


def check_head(received: bytes, settings: ServerSettings) -> None:
    r"""Refuse a request head, complete or not, for its size or its line ends.

    It must see the raw bytes: h11 takes ``\n`` for ``\r\n`` and joins folded lines before anyone can look, and its size
    limit counts an incomplete head only, so that 60 KiB in one read pass it.

    Args:
        received: All bytes received since the end of the last message; whatever follows the head is ignored.
        settings: The bounds.

    Raises:
        Refusal: 400 for line ends, 431 for size.
    """
    end = received.find(b"\r\n\r\n")
    head = received if end < 0 else received[: end + 4]
    if len(head) > settings.max_head_bytes:
        raise Refusal(431, f"The request head is larger than {settings.max_head_bytes} bytes.")
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines:
        raise Refusal(400, "A line of the request head ends without CR.")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise Refusal(400, "A field of the request head is folded over several lines.")
    if lines - (1 if end < 0 else 2) > settings.max_head_fields:
        raise Refusal(431, f"The request head has more than {settings.max_head_fields} fields.")


def check_trailer(fields: Collection[tuple[bytes, bytes]], settings: ServerSettings) -> None:
    """Refuse what stands behind a chunked body where it is larger than a head may be.

    h11 bounds a trailer that is incomplete only, as it does with heads; nobody reads these fields.

    Args:
        fields: The fields.
        settings: The bounds.

    Raises:
        Refusal: 431.
    """
    if len(fields) > settings.max_head_fields:
        raise Refusal(431, f"The trailer has more than {settings.max_head_fields} fields.")
    if sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields) > settings.max_head_bytes:
        raise Refusal(431, f"The trailer is larger than {settings.max_head_bytes} bytes.")


def check_framing(received: int, body: int, settings: ServerSettings) -> None:
    """Refuse a chunked body that is hardly anything but sizes of chunks and their extensions.

    Args:
        received: How many bytes came of it.
        body: How many of them were its content.
        settings: The bounds.

    Raises:
        Refusal: 400.
    """
    if received > settings.max_head_bytes + _CHUNK_OVERHEAD * body:
        raise Refusal(400, f"More than {_CHUNK_OVERHEAD} bytes came for each byte of the body.")


def check_request(request: h11.Request, settings: ServerSettings) -> None:
    """Refuse a well-formed request that the server does not serve.

    Args:
        request: The request as h11 read it.
        settings: The bounds.

    Raises:
        Refusal: 400, 413, 414, 417, 501 or 505.
    """
    if request.http_version not in {b"1.1", b"1.0"}:
        # Also the HTTP/2 preface, `PRI * HTTP/2.0`: behind a proxy that speaks HTTP/1.1 only it opens a tunnel.
        raise Refusal(505, "This server speaks HTTP/1.1.")
    length = check_fields(request.method, request.target, request.headers, settings)
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    if chunked and (length is not None or request.http_version == b"1.0"):
        raise Refusal(400, "Transfer-Encoding with Content-Length, or in HTTP/1.0, makes the body's end ambiguous.")
    if length is not None and length > settings.max_body_bytes:
        raise Refusal(413, f"The request body is larger than {settings.max_body_bytes} bytes.")


def check_fields(
    method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]], settings: ServerSettings
) -> int | None:
    """Refuse a request for what it asks, in any version of HTTP; return the length of its body, if it says so.

    Args:
        method: The method.
        target: Path and query.
        headers: The fields.
        settings: The bounds.

    Raises:
        Refusal: 400, 414, 417 or 501.
    """
    if len(target) > settings.max_target_bytes:
        raise Refusal(414, f"The target of the request is longer than {settings.max_target_bytes} bytes.")
    if method == b"CONNECT":
        raise Refusal(501, "This server does not implement CONNECT.")
    length: int | None = None
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or not value.isascii():
                raise Refusal(400, "Content-Length is no number.")
            length = int(value)
        elif name == b"expect" and value.lower() != b"100-continue":
            raise Refusal(417, "The only expectation this server meets is 100-continue.")
    return length
