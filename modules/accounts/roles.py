"""What people are, and what they may do for it."""

from collections.abc import Iterable

from .contract import UnknownRole

MEMBER, AUTHOR, ADMIN = "member", "author", "admin"

_MEMBER = frozenset({"accounts:self", "submissions:write"})
_AUTHOR = _MEMBER | {"challenges:write"}
_SCOPES = {
    AUTHOR: _AUTHOR,
    ADMIN: _AUTHOR | {"accounts:write", "leaderboard:rebuild"},
}


def scopes_of(roles: Iterable[str]) -> frozenset[str]:
    """Return what somebody may do. A role that an older version knew gives nothing."""
    return _MEMBER.union(*(_SCOPES.get(role, _MEMBER) for role in roles))


def checked(roles: Iterable[str]) -> list[str]:
    """Return roles as they are stored: each once, without that of a member, which everybody has.

    Raises:
        UnknownRole: There is no such role.
    """
    found = set(roles) - {MEMBER}
    for role in sorted(found):
        if role not in _SCOPES:
            raise UnknownRole(role)
    return sorted(found)
