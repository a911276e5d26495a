"""The one place that writes: data to stdout, everything else to stderr, colours only where a person looks."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from fissile._settings import MASK

_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]*@")
_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


def wants_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether a stream should get colours: a terminal, and nobody said otherwise."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb" and not environment.get("CI")


class Output:
    """Writes what a command has to say.

    Args:
        color: False for no colours anywhere; decided per stream otherwise.
    """

    def __init__(self, *, color: bool = True) -> None:
        self.color_out = color and wants_color(sys.stdout, os.environ)
        self.color_err = color and wants_color(sys.stderr, os.environ)

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads the data."""
        return sys.stdout.isatty()

    def data(self, text: str) -> None:
        """Write data to stdout."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def json(self, value: Any) -> None:  # Any: whatever can be encoded
        """Write a value as JSON to stdout: indented for a person, on one line otherwise."""
        self.data(encode_json(value, indent=self.is_terminal))

    def say(self, text: str = "") -> None:
        """Write a line to stderr."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Write a warning to stderr."""
        self.say(f"{self.style('warning:', 'yellow', 'bold')} {text}")

    def error(self, what: str, *details: str) -> None:
        """Write an error to stderr: what happened, then where and what to do next."""
        self.say(f"{self.style('error:', 'red', 'bold')} {what}")
        for line in details:
            self.say(f"  {line}")

    def style(self, text: str, *styles: str) -> str:
        """Return a text for stderr in some styles, or as it is where there are no colours."""
        if not self.color_err or not styles:
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


def without_password(text: str) -> str:
    """Return a text with the password of a URL in it masked, as in `kafka://user:********@host`."""
    return _PASSWORD.sub(rf"\1{MASK}@", text)


def encode_json(value: Any, *, indent: bool) -> str:  # Any: as above
    """Return a value as JSON; what JSON does not know is told as text."""
    data = msgspec.json.encode(value, enc_hook=str)
    return (msgspec.json.format(data, indent=2) if indent else data).decode()


def silence(logger: str) -> None:
    """Show nothing that a library logs. Who listens to its logger still hears it."""
    silenced = logging.getLogger(logger)
    silenced.addHandler(logging.NullHandler())
    silenced.propagate = False
