"""JSON Web Tokens (RFC 7519), checked as RFC 8725 has it: algorithms are pinned, and a key is used for its own kind of algorithm only."""

from __future__ import annotations

import hashlib
import json
import warnings
from base64 import urlsafe_b64decode
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
from attrs import define, field
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey
from joserfc.jwt import JWTClaimsRegistry

from fissile import Identity
from fissile_gateway._auth import CREDENTIAL_LIMIT_BYTES, CredentialRefused, Proof
from fissile_gateway._auth_bus import Asked
from fissile_gateway._auth_jwks import Jwks, Key
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from fissile import Clock

REMEMBERED = 1000
REMEMBERED_S = 30.0
"""How many tokens that were found good are remembered, and how long, in seconds: checking a signature takes as long as the rest of a request."""

_SCOPES = 200


class _Head(msgspec.Struct):
    alg: str
    kid: str | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


@define(eq=False)
class Tokens:
    """Checks tokens.

    Args:
        clock: The time.
        jwks: The keys of asymmetric algorithms; None where there are none.
        algorithms: The asymmetric algorithms that are accepted.
        secret: The key of HS256; None where that is not accepted.
        issuer: Who has to have issued a token; any if empty.
        audience: For whom it has to be: one of these; any if empty.
        skew_s: How far the issuer's clock may be off, in seconds.
        tenant_claim: The claim that names the tenant; none if empty.
    """

    clock: Clock
    jwks: Jwks | None
    algorithms: frozenset[str]
    secret: OctKey | None
    issuer: str
    audience: tuple[str, ...]
    skew_s: float
    tenant_claim: str
    _registry: jws.JWSRegistry = field(init=False)
    _good: OrderedDict[bytes, tuple[Proof, float, int]] = field(
        factory=OrderedDict[bytes, "tuple[Proof, float, int]"], init=False
    )

    def __attrs_post_init__(self) -> None:
        allowed = {*self.algorithms, *(("HS256",) if self.secret is not None else ())}
        self._registry = jws.JWSRegistry(algorithms=allowed, strict_check_header=False)
        self._registry.max_header_length = self._registry.max_payload_length = CREDENTIAL_LIMIT_BYTES

    @classmethod
    def of(cls, settings: GatewaySettings, clock: Clock, query: Asked | None = None) -> Tokens:
        """Make what the settings describe.

        Args:
            settings: The settings, which were checked.
            clock: The time.
            query: What to ask for the keys, where they are a module's.
        """
        jwks: Jwks | None = None
        if settings.jwt_jwks:
            jwks = Jwks(settings.jwt_jwks, clock, settings.jwks_max_age_s, settings.jwks_pause_s, query)
        return cls(
            clock,
            jwks,
            frozenset(settings.jwt_algorithms) if jwks is not None else frozenset(),
            OctKey.import_key(settings.jwt_secret) if settings.jwt_secret else None,
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_skew_s,
            settings.jwt_tenant_claim,
        )

    async def prove(self, token: str) -> Proof:
        """Return whose token it is.

        Raises:
            CredentialRefused: It is not valid.
            KeysUnavailable: There are no keys to check it with.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._good.get(digest)
        generation = 0 if self.jwks is None else self.jwks.generation
        if known is not None:
            proof, until, of_generation = known
            if of_generation == generation and self.clock.monotonic() < until and not self._is_over(proof):
                return proof
            del self._good[digest]
        proof = self._proof(self._claims(token, *await self._key(token)))
        if len(self._good) >= REMEMBERED:
            self._good.popitem(last=False)
        generation = 0 if self.jwks is None else self.jwks.generation
        self._good[digest] = proof, self.clock.monotonic() + REMEMBERED_S, generation
        return proof

    def _is_over(self, proof: Proof) -> bool:
        return proof.expires <= self.clock.now().timestamp()

    async def _key(self, token: str) -> tuple[str, Key | OctKey]:
        """Return the algorithm of a token and the key that may be used with it. What stands in the token is not trusted yet."""
        try:
            head = _decode_head(urlsafe_b64decode(token.partition(".")[0] + "=="))
        except (ValueError, msgspec.MsgspecError, RecursionError):
            raise CredentialRefused("it is no JSON Web Token") from None
        if head.alg == "HS256" and self.secret is not None:
            return head.alg, self.secret
        if head.alg not in self.algorithms or self.jwks is None:
            raise CredentialRefused(f"its algorithm {head.alg[:16]!r} is not accepted (FISSILE_JWT_ALGORITHMS)")
        key = await self.jwks.key(head.kid)
        if key is None:
            raise CredentialRefused(f"its key {(head.kid or '')[:64]!r} is none of {self.jwks.place}")
        return head.alg, key

    def _claims(self, token: str, algorithm: str, key: Key | OctKey) -> dict[str, Any]:  # Any: whatever JSON can say
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a newer name, by which few issuers call it
                signed = jws.deserialize_compact(token, key, [algorithm], self._registry)
            claims: Any = json.loads(signed.payload)
            if not isinstance(claims, dict):
                raise CredentialRefused("its claims are no object")
            self._check(claims)  # pyright: ignore[reportUnknownArgumentType]
        except CredentialRefused:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever a stranger's token makes a parser raise
            raise CredentialRefused(f"{type(error).__name__}: {error}") from None
        return claims  # pyright: ignore[reportUnknownVariableType]

    def _check(self, claims: dict[str, Any]) -> None:
        registry = JWTClaimsRegistry(
            now=int(self.clock.now().timestamp()),
            leeway=int(self.skew_s),
            exp={"essential": True},
            sub={"essential": True},
            iss={"essential": True, "value": self.issuer} if self.issuer else {"essential": False},
            aud={"essential": True, "values": list(self.audience)} if self.audience else {"essential": False},
        )
        registry.validate(claims)

    def _proof(self, claims: dict[str, Any]) -> Proof:
        tenant = claims.get(self.tenant_claim) if self.tenant_claim else None
        if tenant is not None and not isinstance(tenant, str):
            raise CredentialRefused(f"its claim {self.tenant_claim} is no text")
        try:
            identity = Identity(claims["sub"], _scopes_in(claims), tenant=tenant)
        except ValueError as error:
            raise CredentialRefused(str(error)) from None
        return Proof(identity, float(claims["exp"]) + self.skew_s)


def _scopes_in(claims: dict[str, Any]) -> frozenset[str]:
    """Return the scopes of a token: RFC 8693 has a text of words in `scope`; others have a list, or call it `scp`."""
    found: list[str] = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        words: Any = value.split() if isinstance(value, str) else value
        if isinstance(words, list):
            found += [word for word in words if isinstance(word, str) and word and not any(map(str.isspace, word))]  # pyright: ignore[reportUnknownVariableType]
    if len(found) > _SCOPES:
        raise CredentialRefused(f"it has more than {_SCOPES} scopes")
    return frozenset(found)
