"""Where the keys of tokens may come from, checked at start, before anything is imported that could use them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit


def place_problem(place: str) -> str | None:
    """Return what is wrong with where keys are to come from, as a sentence."""
    if "://" not in place:
        return None if Path(place).is_file() else f"there is no file {place}"
    url = urlsplit(place)
    if url.scheme == "https" or (url.scheme == "http" and _is_this_machine(url.hostname or "")):
        return None
    return f"{place} is neither a file nor an https:// URL"


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
