"""The floor of the local call: await the handler, with msgspec's encode and decode of message and reply; no other guarantee."""

from __future__ import annotations

import msgspec

from benchmarks.executor.contract import RunCode, RunReport
from benchmarks.executor.service import REPORT

_encode = msgspec.json.Encoder().encode
_decode_message = msgspec.json.Decoder(RunCode).decode
_decode_reply = msgspec.json.Decoder(RunReport).decode


async def handle(_message: RunCode) -> RunReport:
    """Answer."""
    return REPORT


async def call_many(message: RunCode, calls: int) -> None:
    """Make so many calls in a row."""
    encode, decode_message, decode_reply = _encode, _decode_message, _decode_reply
    for _ in range(calls):
        reply = await handle(decode_message(encode(message)))
        decode_reply(encode(reply))
