"""API keys: how one is made, and its entry in the file of keys. The gateway checks them; the command line makes them.

A key is `fsl_<id>_<secret>`. The secret has 256 random bits, so one SHA-256 is as good as a slow hash, which is for what people make up.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime

import msgspec

from fissile._identity import Identity

PREFIX = "fsl_"
"""What an API key begins with, so that it is recognised wherever it turns up."""

KEY = re.compile(rf"{PREFIX}(?P<id>[A-Za-z0-9-]{{1,64}})_(?P<secret>[A-Za-z0-9_-]{{43,86}})")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key in the file.

    Attributes:
        id: Its name, unique in the file.
        sha256: The SHA-256 of the whole key, in hexadecimal digits.
        subject: Whose it is; its id unless told.
        scopes: What it may do.
        tenant: On whose behalf, where an application tells its customers apart.
        expires: Until when, with a time zone; for ever unless told.
    """

    id: str
    sha256: str
    subject: str = ""
    scopes: tuple[str, ...] = ()
    tenant: str | None = None
    expires: datetime | None = None

    def identity(self) -> Identity:
        """Return whose it is.

        Raises:
            ValueError: It makes no sense.
        """
        if _ID.fullmatch(self.id) is None:
            raise ValueError(f"{self.id!r} is no id: 1 to 64 letters, digits and hyphens")
        if _HASH.fullmatch(self.sha256) is None:
            raise ValueError(f"the sha256 of {self.id} is not 64 hexadecimal digits in small letters")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError(f"the time at which {self.id} expires has no time zone")
        return Identity(self.subject or self.id, frozenset(self.scopes), kind="api-key", tenant=self.tenant)


def new_key(key_id: str) -> tuple[str, str]:
    """Make a key; return it, and its hash.

    Raises:
        ValueError: The id is none.
    """
    if _ID.fullmatch(key_id) is None:
        raise ValueError(f"{key_id!r} is no id: 1 to 64 letters, digits and hyphens")
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()
