"""TLS over a client's socket: the same reading and writing as without, for any event loop.

OpenSSL works on bytes in memory here, so that one class serves all event loops, and a deadline on writing stays one on what the client took.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from fissile_gateway._http_socket import Stream

HTTP_2 = "h2"

_PIECE_BYTES = 64 * 1024
_UNSENT_MAX_BYTES = 4 * _PIECE_BYTES


class TlsStream:
    """A secure connection.

    Args:
        stream: The connection below.
        context: The server's certificate and rules.
    """

    def __init__(self, stream: Stream, context: ssl.SSLContext) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._owed = 0  # plain bytes that are encrypted in `_unsent`, and not yet reported as sent

    @property
    def protocol(self) -> str | None:
        """What both sides agreed to speak (ALPN), if they did."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> bool:
        """Agree on keys; return False if the client does not manage to."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not await self._push() or not await self._fill():
                    return False
            except ssl.SSLError:
                self._push_now()  # the alert that says why
                return False
            else:
                return await self._push()

    def addresses(self) -> tuple[Any, Any]:
        """Return the client's and the server's address; none if the client is gone already."""
        return self._stream.addresses()

    async def receive(self) -> bytes:
        """Wait for bytes; none is the end."""
        while True:
            try:
                return self._tls.read(_PIECE_BYTES)
            except ssl.SSLWantReadError:
                # Answers to the client's own messages go out as far as it takes them; it may not pile them up.
                self._push_now()
                if len(self._unsent) > _UNSENT_MAX_BYTES or not await self._fill():
                    return b""
            except ssl.SSLError:
                return b""

    def send(self, data: bytes | memoryview) -> int:
        """Send what is taken at once.

        What is encrypted cannot be taken back: where a part of it is still to go, it counts as sent by the call that sees the last of it
        off. So, as with OpenSSL itself, who is told of fewer bytes than he gave has to come back with the rest.
        """
        if self._unsent or self._owed:
            self._push_now()
            if self._unsent:
                return 0
            owed, self._owed = self._owed, 0
            return owed
        piece = memoryview(data)[:_PIECE_BYTES]
        try:
            count = self._tls.write(piece)
        except ssl.SSLError as error:
            raise ConnectionError("the TLS connection has ended") from error
        self._push_now()
        if self._unsent:
            self._owed = count
            return 0
        return count

    async def wait_writable(self) -> None:
        """Wait until `send` takes something."""
        await self._stream.wait_writable()

    def send_eof(self) -> None:
        """Tell the client that nothing more comes, and close the sending side."""
        with suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with suppress(OSError):
            self._push_now()
        self._stream.send_eof()

    def forget_unsent(self) -> None:
        """Make closing a reset: what the operating system holds for the client is thrown away."""
        self._stream.forget_unsent()

    def close(self) -> None:
        """Close the connection; a client that reads to the end is told that this is it."""
        with suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with suppress(OSError):
            self._push_now()
        self._stream.close()

    async def _fill(self) -> bool:
        data = await self._stream.receive()
        if not data:
            self._incoming.write_eof()
            return False
        self._incoming.write(data)
        return True

    def _push_now(self) -> None:
        self._unsent += self._outgoing.read()
        if self._unsent:
            self._unsent = self._unsent[self._stream.send(self._unsent) :]

    async def _push(self) -> bool:
        try:
            self._push_now()
            while self._unsent:
                await self._stream.wait_writable()
                self._push_now()
        except OSError:
            return False
        return True


def server_context(certificate: str, key: str, password: str, *, http2: bool) -> ssl.SSLContext:
    """Make the server's side of TLS 1.2 and 1.3.

    Args:
        certificate: The file with the certificate chain, in PEM.
        key: The file with its private key; empty if it is in the same file.
        password: The key's password, if it has one.
        http2: Whether HTTP/2 is offered.

    Raises:
        OSError: A file cannot be read, or is not what it should be (`ssl.SSLError` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2: what HTTP/2 allows (RFC 9113, 9.2.2)
    # Compression reveals secrets (CRIME), and a client could renegotiate without end.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # An empty password, so that OpenSSL never asks for one at a terminal.
    context.load_cert_chain(certificate, key or None, password=lambda: password)
    context.set_alpn_protocols([HTTP_2, "http/1.1"] if http2 else ["http/1.1"])
    return context
