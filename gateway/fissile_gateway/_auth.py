"""Who asks: what a request has sent for a credential, and the identity that it stands for.

A request without a credential is anonymous, at no cost. A credential that is wrong is refused on every route, whether or not that needs one: a
client whose token has ended is to learn it. What exactly was wrong goes to the log and not to the client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field

from fissile import Bus, CallRefused, Contract, Fault, Identity, StartupFailed
from fissile._api_keys import PREFIX
from fissile_gateway._auth_bus import BUS, api_keys_query, keys_query
from fissile_gateway._auth_places import place_problem
from fissile_gateway._problems import RETRY_AFTER_S, Problem, challenge
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from fissile import Clock
    from fissile_gateway._exchange import Exchange

AUTHORIZATION = b"authorization"
API_KEY = b"x-api-key"
CREDENTIAL_LIMIT_BYTES = 8192

_logger = logging.getLogger("fissile.gateway.auth")


class CredentialRefused(Exception):
    """Raised when a credential proves nothing. Its text is for the log, never for the client."""


class KeysUnavailable(Exception):
    """Raised when nothing can be said of a credential, because the keys to check it with are not to be had."""


@define(eq=False)
class Proof:
    """What a credential has proved.

    Attributes:
        identity: Who asks.
        expires: Until when, in seconds since 1970.
        bus: Calls modules for who asks; made for the first request, since a proof is remembered.
    """

    identity: Identity
    expires: float = inf
    bus: Bus | None = field(default=None, init=False)


class Prover(Protocol):
    """Checks credentials of one kind."""

    async def prove(self, text: str) -> Proof:
        """Return what a credential proves.

        Raises:
            CredentialRefused: Nothing.
            KeysUnavailable: Nothing can be said of it.
        """
        ...


@define(eq=False)
class Authenticator:
    """Turns credentials into identities.

    Args:
        bus: The bus of the gateway; `authenticate` gives each request one that acts for who asks.
        anonymous: Who asks without a credential.
        clock: The time of day.
        tokens: Checks JSON Web Tokens; None where none are taken.
        api_keys: Check API keys, one after the other; none where none are taken.

    Attributes:
        refused: How many credentials were refused.
    """

    bus: Bus
    anonymous: Identity
    clock: Clock
    tokens: Prover | None = None
    api_keys: tuple[Prover, ...] = ()
    refused: int = field(default=0, init=False)
    anonymous_bus: Bus = field(init=False)

    def __attrs_post_init__(self) -> None:
        try:
            self.anonymous_bus = self.bus.acting_as(self.anonymous)
        except CallRefused as refused:
            what, _, cure = str(refused).partition(". ")
            raise StartupFailed((Fault(f"{what}.", "FISSILE_IDENTITY_KEYS", cure),)) from None

    async def authenticate(self, exchange: Exchange) -> Problem | None:
        """Find out who asks, and note it in the exchange; return what is told to a client that does not get through."""
        try:
            proof = await self._prove(exchange.credentials or ())
        except CredentialRefused as reason:
            self.refused += 1
            _logger.info("a credential was refused: %s", reason, extra={"request_id": exchange.request_id})
            return _REFUSED
        except KeysUnavailable as reason:
            _logger.warning("a credential cannot be checked: %s", reason, extra={"request_id": exchange.request_id})
            return _UNAVAILABLE
        if proof is None:
            return _TWO_WAYS
        exchange.identity, exchange.expires = proof.identity, proof.expires
        if proof.bus is None:
            proof.bus = self.bus.acting_as(proof.identity)
        exchange.bus = proof.bus
        return None

    async def is_still(self, exchange: Exchange) -> bool:
        """Tell whether who has opened something is who they were, and note until when. Where that cannot be told, they are."""
        try:
            proof = await self._prove(exchange.credentials or ())
        except CredentialRefused as reason:
            _logger.info("a credential has ended: %s", reason, extra={"request_id": exchange.request_id})
            return False
        except KeysUnavailable as reason:
            _logger.warning(
                "a credential cannot be checked again: %s", reason, extra={"request_id": exchange.request_id}
            )
            return True
        # With other scopes it might not have been opened: the client asks anew, and is told.
        if proof is None or proof.identity != exchange.identity:
            return False
        exchange.expires = proof.expires
        return True

    async def _prove(self, credentials: tuple[tuple[bytes, bytes], ...]) -> Proof | None:
        """Return what a credential proves; None if there are several.

        Raises:
            CredentialRefused: It proves nothing.
            KeysUnavailable: Nothing can be said of it.
        """
        if len(credentials) != 1:
            return None
        ((name, value),) = credentials
        if len(value) > CREDENTIAL_LIMIT_BYTES:
            raise CredentialRefused(f"it has {len(value)} bytes")
        try:
            text = value.decode("ascii").strip()
        except UnicodeDecodeError:
            raise CredentialRefused("it is not ASCII") from None
        if name == AUTHORIZATION:
            scheme, _, text = text.partition(" ")
            if scheme.lower() != "bearer":
                raise CredentialRefused("its scheme is not Bearer")
            text = text.strip()
        if name == API_KEY or text.startswith(PREFIX):
            return await self._prove_key(text)
        if self.tokens is None:
            raise CredentialRefused("no tokens are taken (FISSILE_JWT_JWKS, FISSILE_JWT_SECRET)")
        return await self.tokens.prove(text)

    async def _prove_key(self, text: str) -> Proof:
        refusal = "no API keys are taken (FISSILE_API_KEYS_FILE, FISSILE_API_KEYS_QUERY)"
        for keys in self.api_keys:
            try:
                return await keys.prove(text)
            except CredentialRefused as error:
                refusal = str(error)
        raise CredentialRefused(refusal)


_NO_STORE = ("cache-control", "no-store")
_REFUSED = Problem(
    401,
    "invalid-credential",
    "What was sent to say who asks is not valid, or no longer. Get another one, or ask without.",
    headers=(challenge(error="invalid_token"), _NO_STORE),
)
_TWO_WAYS = Problem(
    400,
    "several-credentials",
    "Say who asks in one way: either one field Authorization or one field X-API-Key.",
    headers=(challenge(error="invalid_request"), _NO_STORE),
)
_UNAVAILABLE = Problem(
    503,
    "keys-unavailable",
    "It cannot be found out now who asks. Nothing happened; try again later.",
    headers=(("retry-after", str(RETRY_AFTER_S)), _NO_STORE),
)


def authenticator_of(
    bus: Bus, contracts: Iterable[Contract], settings: GatewaySettings, clock: Clock
) -> Authenticator | None:
    """Return what tells who asks; None where nothing is configured and no contract requires anything.

    Raises:
        StartupFailed: Keys cannot come from where they are said to be, or identities cannot go to other processes.
    """
    takes_tokens = bool(settings.jwt_jwks or settings.jwt_secret)
    takes_keys = bool(settings.api_keys_file or settings.api_keys_query)
    contracts = tuple(contracts)
    if not (takes_tokens or takes_keys or settings.anonymous_scopes or _require(contracts)):
        return None
    anonymous = Identity("", frozenset(settings.anonymous_scopes), kind="anonymous")
    tokens = _tokens(bus, contracts, settings, clock) if takes_tokens else None
    return Authenticator(bus, anonymous, clock, tokens, tuple(_api_keys(bus, contracts, settings, clock)))


def _tokens(bus: Bus, contracts: Iterable[Contract], settings: GatewaySettings, clock: Clock) -> Prover:
    from fissile_gateway._auth_late import LateTokens

    place = settings.jwt_jwks
    if place.startswith(BUS):
        return LateTokens(settings, clock, keys_query(bus, contracts, place.removeprefix(BUS)))
    problem = place_problem(place) if place else None
    if problem is not None:
        cure = (
            "Name the file with the issuer's JWK set, its https:// URL, or a query of a module: bus:<module>.<query>."
        )
        raise StartupFailed((Fault(f"The keys of tokens cannot be had: {problem}.", "FISSILE_JWT_JWKS", cure),))
    return LateTokens(settings, clock)


def _api_keys(bus: Bus, contracts: Iterable[Contract], settings: GatewaySettings, clock: Clock) -> Iterator[Prover]:
    if settings.api_keys_file:
        from fissile_gateway._auth_keys import ApiKeys

        yield ApiKeys.of(settings.api_keys_file, clock)
    if settings.api_keys_query:
        from fissile_gateway._auth_asked import AskedKeys

        yield AskedKeys(api_keys_query(bus, contracts, settings.api_keys_query), clock)


def _require(contracts: Iterable[Contract]) -> bool:
    return any(
        any(message.required_scopes for message in (*contract.commands, *contract.queries))
        or any(topic.required_scopes for topic in contract.topics)
        for contract in contracts
    )


OnFailedAuthentication = Callable[[Any], Problem | None]
"""Is told the ASGI scope of each request whose credential was wrong, and may return another answer, such as 429. Any: ASGI's own."""


def made_private(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields of an answer to somebody, such that only their own cache may keep it."""
    headers = [*headers]
    if (b"cache-control", b"no-store") in headers:
        return headers
    made: list[tuple[bytes, bytes]] = []
    rules: list[bytes] = []
    for name, value in headers:
        if name.lower() == b"cache-control":
            rules += [rule.strip() for rule in value.split(b",")]
        else:
            made.append((name, value))
    if b"no-store" not in rules:
        kept = [rule for rule in rules if rule not in (b"public", b"private") and not rule.startswith(b"s-maxage")]
        rules = [b"private", *kept]
    return [*made, (b"cache-control", b", ".join(rules))]
