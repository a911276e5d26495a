"""Sessions for browsers: what goes on with a session is in a cookie that no script can read, what requests are made with in the answer.

The cookie is sent to these routes only, and by pages of this origin only (`SameSite=Strict`). That alone would do against forged requests;
beside it the body has to be JSON, which a form of another page cannot send, and what a browser says of where a request comes from has to be
right.

A second cookie, one for each account, says that this browser has signed in to it before: wrong passwords of others do not count against it then.
It outlives the session.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from attrs import frozen
from quart import Blueprint, Response, request

from fissile import DeclaredError, secret
from fissile_gateway import Problem, ProblemError, current_bus, current_identity, operation, read_body, requires
from modules.accounts.contract import (
    ChangePassword,
    Name,
    Password,
    RefreshSession,
    Session,
    SessionEnded,
    SignIn,
    SignInFailed,
    SignOut,
    TooManyAttempts,
    WeakPassword,
)

blueprint = Blueprint("session", __name__)

PATH, COOKIE, DEVICE_COOKIE = "/session", "session", "device-{name}"
DEVICE_S = 400 * 86_400
"""How long a browser is known, in seconds; browsers allow no longer."""
_LONGEST = 128
"""What a token in a cookie may have, in characters; of a longer one no beginning is right."""


@frozen
class ForgedRequest(DeclaredError, status=403):
    """Raised when a page of another origin asks to sign in or out here. Nothing happened."""


@frozen
class Credentials:
    """Who signs in."""

    name: Name
    password: Password = secret()


@frozen
class NewPassword:
    """The password of who asks, and the one that they want."""

    old: Password = secret()
    new: Password = secret()


@frozen
class Nothing:
    """An empty object: that it is JSON says that no form sent it."""


@frozen
class SignedIn:
    """What a page gets of a session.

    Attributes:
        name: Who.
        roles: What they are, besides a member.
        expires_in_s: How long the access token is valid, in seconds.
        access_token: For the field `Authorization: Bearer …`; to be kept in memory only.
    """

    name: str
    roles: tuple[str, ...]
    expires_in_s: float
    access_token: str = secret()


@blueprint.post(PATH)
@operation(body=Credentials, reply=SignedIn, raises=(SignInFailed, TooManyAttempts, ForgedRequest))
async def sign_in() -> Response:
    """Begin a session. One that this browser had is ended."""
    _check_origin()
    given = await read_body(Credentials)
    before = request.cookies.get(COOKIE)
    device = request.cookies.get(DEVICE_COOKIE.format(name=given.name)) or None
    session = await current_bus().execute(SignIn(given.name, given.password, device and device[:_LONGEST]))
    if before:
        await current_bus().execute(SignOut(before[:_LONGEST]))
    return _begun(session)


@blueprint.post(f"{PATH}/refresh")
@operation(body=Nothing, reply=SignedIn, raises=(SessionEnded, ForgedRequest))
async def refresh() -> Response:
    """Go on with the session of this browser: another access token, and another cookie."""
    _check_origin()
    await read_body(Nothing)
    token = request.cookies.get(COOKIE)
    if not token:
        # As SessionEnded is told; but nobody has guessed anything, so it counts for nothing.
        raise ProblemError(Problem(401, "session-ended", "This browser has no session.", members={"error": {}}))
    return _begun(await current_bus().execute(RefreshSession(token[:_LONGEST])))


@blueprint.put(f"{PATH}/password")
@operation(body=NewPassword, reply=SignedIn, raises=(SignInFailed, WeakPassword, TooManyAttempts, ForgedRequest))
@requires("accounts:self")
async def change_password() -> Response:
    """Change the password of who asks. All of their sessions end, and this browser begins another."""
    _check_origin()
    given = await read_body(NewPassword)
    identity = current_identity()
    name = "" if identity is None else identity.subject
    changed = await current_bus().execute(ChangePassword(given.old, given.new))
    return _begun(await current_bus().execute(SignIn(name, given.new, changed.device_token)))


@blueprint.delete(PATH)
@operation(status=204, raises=(ForgedRequest,))
async def sign_out() -> Response:
    """End the session of this browser, if it has one."""
    _check_origin()
    token = request.cookies.get(COOKIE)
    if token:
        await current_bus().execute(SignOut(token[:_LONGEST]))
    response = Response(b"", 204)
    _forget(response)
    return response


@blueprint.after_request
async def keep_nothing(response: Response) -> Response:
    """Let nobody store an answer, and a browser forget a cookie that is worth nothing."""
    response.headers["cache-control"] = "no-store"
    if response.status_code == 401 and request.path == f"{PATH}/refresh":
        _forget(response)
    return response


def _begun(session: Session) -> Response:
    told = SignedIn(session.name, session.roles, session.expires_in_s, session.access_token)
    response = Response(msgspec.json.encode(told, order="deterministic"), 200, content_type="application/json")
    _set_cookie(response, COOKIE, session.refresh_token, session.ends_in_s)
    if session.device_token is not None:
        _set_cookie(response, DEVICE_COOKIE.format(name=session.name), session.device_token, DEVICE_S)
    return response


def _set_cookie(response: Response, name: str, value: str, for_s: float | None) -> None:
    response.set_cookie(
        name,
        value,
        max_age=None if for_s is None else int(for_s),
        path=PATH,
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )


def _forget(response: Response) -> None:
    response.delete_cookie(COOKIE, path=PATH, secure=request.is_secure, httponly=True, samesite="Strict")


def _check_origin() -> None:
    """Refuse what a page of another origin has sent. Who is no browser says nothing of that, and has no cookies of anybody's.

    Raises:
        ForgedRequest: It has.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:
        origin = request.headers.get("origin")
        is_own = origin is None or urlsplit(origin).netloc == request.host
    if not is_own:
        raise ForgedRequest
