"""What others may know of the accounts."""

from typing import Annotated

from attrs import frozen
from msgspec import Meta

from fissile import Command, Contract, DeclaredError, Query, secret

contract = Contract("accounts")

NO_NUL = r"^[^\x00]*$"
"""For text that is stored: PostgreSQL keeps no NUL, so SQLite is given none either."""

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?(?!\n)$",  # $ alone matches before a last line break, too
        max_length=30,
        description="The name of an account: small letters, digits and hyphens. Everybody sees it.",
        examples=["ada"],
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=256)]
DeviceToken = Annotated[str, Meta(min_length=1, max_length=128)]
RefreshToken = Annotated[str, Meta(min_length=1, max_length=128)]
TokenName = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=60)]
TokenId = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=64)]
Scope = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=64)]
Role = Annotated[
    str, Meta(pattern=NO_NUL, min_length=1, max_length=32, description="`author` or `admin`; everybody is a `member`.")
]


@frozen
class Session:
    """What somebody has who signed in.

    Attributes:
        name: Who.
        roles: What they are, besides a member.
        expires_in_s: How long the access token is valid, in seconds.
        access_token: A JSON Web Token for the field `Authorization: Bearer …`.
        refresh_token: What `RefreshSession` takes, once; a program in a browser gets it as a cookie.
        ends_in_s: When the session ends unless it is gone on with, in seconds; None where that is not told.
        device_token: What the device gives with its next sign-in to this account; a program in a browser gets it as a cookie. None where
            nobody has signed in just now.
    """

    name: str
    roles: tuple[str, ...]
    expires_in_s: float
    access_token: str = secret()
    refresh_token: str = secret()
    ends_in_s: float | None = None
    device_token: str | None = secret(None)


@frozen
class PasswordChanged:
    """What whoever has changed their password gives with their next sign-in, since the tokens of all devices have ended."""

    device_token: str = secret()


@frozen
class Account:
    """An account, as its owner sees it."""

    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    created_at: float


@frozen
class ApiToken:
    """An API token in a list.

    Attributes:
        id: The token; it is no secret.
        name: What its owner calls it.
        scopes: What it may do.
        created_at: When it was made, in seconds since 1970.
        expires_at: When it ends, in seconds since 1970; None if it does not.
        last_used_at: About when it was used last; None if it was not.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    last_used_at: float | None


@frozen
class ApiTokenHolder:
    """Whose an API token is, and what it may do now.

    Attributes:
        subject: The name of its owner.
        scopes: Its scopes, as far as its owner has them now.
        expires_at: When it ends, in seconds since 1970; None if it does not.
    """

    subject: str
    scopes: tuple[str, ...]
    expires_at: float | None


@frozen
class NewApiToken:
    """A new API token, which is shown this once."""

    id: str
    token: str = secret()


# --- what can go wrong -----------------------------------------------------------------------------------------------


@frozen
class NameTaken(DeclaredError, status=409):
    """Raised when there is an account of that name."""

    name: str


@frozen
class WeakPassword(
    DeclaredError, status=422, detail="The password is too easy to guess. {reason} Nothing was changed."
):
    """Raised when a password is too easy to guess. Nothing was changed."""

    reason: str


@frozen
class SignInFailed(DeclaredError, status=401):
    """Raised when name and password do not belong together. It does not tell which of them is wrong."""


@frozen
class TooManyAttempts(
    DeclaredError,
    status=429,
    detail="This account had too many failed attempts lately. "
    "Try again in {retry_after_s:.0f} s, or on a device that has signed in to it before.",
):
    """Raised when an account had too many failed attempts lately, not counting those of devices that have signed in to it before."""

    retry_after_s: float


@frozen
class SessionEnded(DeclaredError, status=401):
    """Raised when a refresh token is not valid, or no longer."""


@frozen
class UnknownAccount(DeclaredError, status=404):
    """Raised when there is no such account."""

    name: str


@frozen
class UnknownToken(DeclaredError, status=404):
    """Raised when there is no such API token, or it is somebody else's."""

    id: str


@frozen
class ScopeNotHeld(DeclaredError, status=422):
    """Raised when an API token is to have a scope that its owner has not, or is to be made with an API token. Nothing was made."""

    scope: str


@frozen
class UnknownRole(DeclaredError, status=422):
    """Raised when there is no such role. Nothing was changed."""

    role: str


@frozen
class TooManyTokens(DeclaredError, status=409, detail="You have {limit} API tokens, which is as many as you may have."):
    """Raised when somebody has as many API tokens as they may have."""

    limit: int


# --- what can be asked for -------------------------------------------------------------------------------------------


# What has a password or a token in it has no key: commands with a key go through the log wherever the bus is shared, and no secret is
# to be kept there.


@frozen
class SignUp(Command[None], raises=(NameTaken, WeakPassword)):
    """Make an account."""

    name: Name
    password: Password = secret()


@frozen
class SignIn(Command[Session], raises=(SignInFailed, TooManyAttempts)):
    """Begin a session.

    Attributes:
        name: Who.
        password: Their password.
        device_token: What an earlier sign-in to this account gave: wrong passwords of others do not count against who has it.
    """

    name: Name
    password: Password = secret()
    device_token: DeviceToken | None = secret(None)


@frozen
class RefreshSession(Command[Session], raises=(SessionEnded,)):
    """Go on with a session. The refresh token is spent; one that comes again ends the session, since two have it.

    Not so for a few seconds, in which it gets the same successor: two windows of one browser may send it at once.
    """

    refresh_token: RefreshToken = secret()


@frozen
class SignOut(Command[None]):
    """End a session; no error if it has ended."""

    refresh_token: RefreshToken = secret()


@frozen
class ChangePassword(
    Command[PasswordChanged], raises=(SignInFailed, WeakPassword, TooManyAttempts), requires="accounts:self"
):
    """Change the caller's password, and end all of their sessions. Wrong passwords of who is not signed in do not count against it."""

    old: Password = secret()
    new: Password = secret()


@frozen
class GetAccount(Query[Account], raises=(UnknownAccount,), requires="accounts:self"):
    """Show the caller's account."""


@frozen
class CreateToken(Command[NewApiToken], raises=(ScopeNotHeld, TooManyTokens), requires="accounts:self"):
    """Make an API token for the caller.

    Attributes:
        name: What to call it.
        scopes: What it may do: some of what its owner may.
        valid_days: How long it is valid; for ever if None.
    """

    name: TokenName
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=20)]
    valid_days: Annotated[int, Meta(ge=1, le=3650)] | None = None


@frozen
class ListTokens(Query[tuple[ApiToken, ...]], requires="accounts:self"):
    """List the caller's API tokens, the newest first."""


@frozen
class RevokeToken(Command[None], raises=(UnknownToken,), requires="accounts:self"):
    """End an API token of the caller's."""

    id: TokenId


@frozen
class SetRoles(Command[None], raises=(UnknownAccount, UnknownRole), key="name", requires="accounts:write"):
    """Say what somebody is. Their sessions have the new scopes after the next refresh."""

    name: Name
    roles: Annotated[tuple[Role, ...], Meta(max_length=8)]


# --- what a gateway asks ---------------------------------------------------------------------------------------------


@frozen
class GetSigningKeys(Query[str], public=False):
    """Show the public keys that access tokens are signed with, as a JWK set (RFC 7517)."""


@frozen
class FindApiToken(Query[ApiTokenHolder | None], public=False):
    """Tell whose an API token is; None if it is nobody's, or no longer.

    Attributes:
        sha256: The SHA-256 of the token, in hexadecimal digits: the token itself goes nowhere.
    """

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
