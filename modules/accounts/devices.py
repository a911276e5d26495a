"""Who guesses: a device that has signed in to the account before proves it by a token, and what others guess does not count against it.

(OWASP calls that device cookies.) A token is a random number and a MAC of it. The key is what is stored of the account's password, which
nobody has outside of the database and which nobody can work out who knows the password: so there is nothing to store for a token, and all
tokens end with the password. That bounds guessing: who wants a count of their own has to know the password already, and who knew an old one
has none. (They end with a hash that is made anew at another cost, too; the next sign-in gives another.)
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from secrets import token_urlsafe
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import Stored

STRANGER = ""
"""What attempts of everybody else are counted under."""

SESSION = "session"
"""What attempts of somebody who is signed in are counted under."""

_NUMBER_BYTES = 16


def make_token(account: Stored) -> str:
    """Make a token for a device that has signed in just now."""
    number = token_urlsafe(_NUMBER_BYTES)
    return f"{number}.{_mac(account, number)}"


def source_of(account: Stored | None, token: str | None) -> str:
    """Return what an attempt is counted under: the device, if it is one that has signed in to this account."""
    number, dot, mac = (token or "").partition(".")
    if account is None or not dot or not hmac.compare_digest(mac.encode(), _mac(account, number).encode()):
        return STRANGER
    return f"device {number}"


def _mac(account: Stored, number: str) -> str:
    made = hmac.digest(account.password.encode(), f"device {account.name} {number}".encode(), sha256)
    return urlsafe_b64encode(made).rstrip(b"=").decode()
