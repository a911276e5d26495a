"""Passwords: which are taken (after NIST SP 800-63B), and how they are kept (Argon2id, RFC 9106)."""

import unicodedata
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from attrs import define, field

from .contract import WeakPassword
from .settings import AccountsSettings

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

SHORTEST = 8
_DIFFERENT = 3
_SALT_BYTES, _HASH_BYTES = 16, 32
_ADORNMENT = "0123456789.,;:!?@#$%&*+-_/ "
_COMMON = Path(__file__).with_name("common_passwords.txt")


def plain(password: str) -> str:
    """Return a password in the one form that it is hashed in: keyboards differ in how they write the same character."""
    return unicodedata.normalize("NFKC", password)


def check(name: str, password: str) -> None:
    """Refuse a password that is too easy to guess.

    Args:
        name: Whose it is to be.
        password: The password.

    Raises:
        WeakPassword: It is.
    """
    text = plain(password)
    if len(text) < SHORTEST:
        raise WeakPassword(f"It has fewer than {SHORTEST} characters.")
    small = text.casefold()
    if len(set(small)) < _DIFFERENT or _is_sequence(small):
        raise WeakPassword("It repeats itself.")
    if small in _common():
        raise WeakPassword("It is one of those that are tried first.")
    bare = small.strip(_ADORNMENT)
    if bare in {name, name * 2, name[::-1]} or small in {name, name * 2}:
        raise WeakPassword("It is the name of the account, or hardly more.")


def _is_sequence(text: str) -> bool:
    """Tell whether each character follows the one before it, as in 23456789."""
    steps = {ord(after) - ord(before) for before, after in pairwise(text)}
    return steps in ({1}, {-1})


@cache
def _common() -> frozenset[str]:
    lines = _COMMON.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@define(eq=False)
class Passwords:
    """Hashes passwords, a few at a time: each takes memory, and a processor for tens of milliseconds.

    Args:
        settings: What a hash costs, and how many are made at a time.
    """

    settings: AccountsSettings
    _places: anyio.CapacityLimiter = field(init=False)
    _made: "PasswordHasher | None" = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._places = anyio.CapacityLimiter(self.settings.hashes_at_once)

    async def hash(self, password: str) -> str:
        """Return what is stored of a password."""
        return await self._in_thread(lambda: self._hasher().hash(plain(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Tell whether a password is the one that was stored. It takes the same time where none was."""
        return await self._in_thread(lambda: self._verify(password, stored))

    def is_outdated(self, stored: str) -> bool:
        """Tell whether what is stored was made when a hash cost something else."""
        return self._hasher().check_needs_rehash(stored)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function, limiter=self._places)

    def _verify(self, password: str, stored: str | None) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            self._hasher().verify(self._nobodys() if stored is None else stored, plain(password))
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    def _nobodys(self) -> str:
        """Return a hash that no password has, and that takes as long to find out as any other."""
        salt, digest = (b64encode(token_bytes(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _HASH_BYTES))
        costs = self.settings
        return (
            f"$argon2id$v=19$m={costs.argon2_memory_kib},t={costs.argon2_passes},p={costs.argon2_lanes}${salt}${digest}"
        )

    def _hasher(self) -> "PasswordHasher":
        if self._made is None:
            from argon2 import PasswordHasher  # it takes its time, which the start of a process need not wait for

            costs = self.settings
            self._made = PasswordHasher(
                time_cost=costs.argon2_passes,
                memory_cost=costs.argon2_memory_kib,
                parallelism=costs.argon2_lanes,
                hash_len=_HASH_BYTES,
                salt_len=_SALT_BYTES,
            )
        return self._made
