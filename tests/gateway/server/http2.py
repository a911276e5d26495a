"""Certificates, and a client that speaks HTTP/2 frame by frame."""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import trustme
from anyio.streams.tls import TLSStream
from attrs import define, field

from fissile_gateway._http_tls import server_context

from .conftest import PATIENCE_S, Site, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4

Gone = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for this machine; return the server's and the client's side of TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    path = folder / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server_context(str(path), "", "", http2=True), client


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Write one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@define(eq=False)
class Answer:
    """What came back for one request."""

    status: int = 0
    fields: dict[str, str] = field(factory=dict[str, str])
    body: bytes = b""
    reset: int | None = None
    is_complete: bool = False


class Http2Client:
    """One connection: `h2` for what is proper, `send` for what is not."""

    def __init__(self, stream: TLSStream, window: int | None = None) -> None:
        self.stream = stream
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.reason = b""
        self.takes = True
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        if window is not None:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            )

    async def begin(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        await self.until(lambda: self.h2.remote_settings.max_concurrent_streams < 1000)

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.send(data)

    async def ask(self, path: str = "/", method: str = "GET", *, end: bool = True, **fields: str) -> int:
        """Send the head of a request; return the number of its stream."""
        number: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        if method == "CONNECT":
            head = [field for field in head if field[0] not in (":path", ":scheme")]
        head += [(name.replace("_", "-"), value) for name, value in fields.items()]
        self.h2.send_headers(number, head, end_stream=end)
        self.answers[number] = Answer()
        await self.flush()
        return number

    async def get(self, path: str = "/", **fields: str) -> Answer:
        return await self.answer(await self.ask(path, "GET", end=True, **fields))

    async def answer(self, number: int) -> Answer:
        await self.until(lambda: self.answers[number].is_complete or self.answers[number].reset is not None)
        return self.answers[number]

    async def until(self, condition: Any) -> None:
        """Read until something holds."""
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                await self.read()

    async def read(self) -> None:
        for event in self.h2.receive_data(await self.stream.receive()):
            self._note(event)
        await self.flush()

    def _note(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived):
            fields: Any = dict(event.headers or [])
            answer.status, answer.fields = int(fields.pop(":status")), fields
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data or b""
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            answer.is_complete = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code or 0)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway, self.reason = int(event.error_code or 0), event.additional_data or b""

    async def closed(self) -> bytes:
        """Read until the server closes; return what it sent."""
        received = b""
        with anyio.fail_after(PATIENCE_S):
            try:
                while True:
                    received += await self.stream.receive()
            except Gone:
                return received


@asynccontextmanager
async def connect(
    site: Site, context: ssl.SSLContext, *, alpn: str = "h2", window: int | None = None
) -> AsyncIterator[Http2Client]:
    """Open a connection and agree on a protocol."""
    context.set_alpn_protocols([alpn])
    stream = await anyio.connect_tcp(
        *site.address, ssl_context=context, tls=True, tls_standard_compatible=False, tls_hostname="localhost"
    )
    async with stream:
        yield Http2Client(stream, window)


@asynccontextmanager
async def http2(
    app: Any, folder: Path, *, window: int | None = None, **settings: Any
) -> AsyncIterator[tuple[Site, Http2Client]]:
    """Serve an application over TLS, and connect to it."""
    server, client = certificate(folder)
    async with serving(app, tls=server, **settings) as site, connect(site, client, window=window) as connected:
        await connected.begin()
        yield site, connected
