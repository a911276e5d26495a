"""OWASP API security, row 2: broken authentication. What is no token, or no good one, gets nobody anywhere."""

from __future__ import annotations

import hmac
import json
import logging
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey

from fissile_gateway import GatewaySettings
from tests.gateway.auth.issuer import AUDIENCE, ISSUER, Forge, claims, desk, ec, key_set, okp, raw, rsa, token, trusting


def hs256(now: float, secret: bytes, kid: str = "rsa-1") -> str:
    """A token signed with HS256 by hand: a library refuses to use a public key as a secret."""
    head, payload, _ = raw({"alg": "HS256", "kid": kid}, claims(now)).split(".")
    mac = hmac.digest(secret, f"{head}.{payload}".encode(), "sha256")
    return f"{head}.{payload}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def resigned(now: float, header: dict[str, Any]) -> str:
    """A good token whose header was changed afterwards."""
    _, payload, signature = token(now).split(".")
    return f"{raw(header, {}).split('.')[0]}.{payload}.{signature}"


FORGED: dict[str, Forge] = {
    "alg is none": lambda now: raw({"alg": "none"}, claims(now)),
    "alg is none, with a kid": lambda now: raw({"alg": "none", "kid": "rsa-1"}, claims(now)),
    "alg is None": lambda now: raw({"alg": "None", "kid": "rsa-1"}, claims(now), b"x"),
    "alg is missing": lambda now: raw({"kid": "rsa-1"}, claims(now), b"x"),
    "alg is no text": lambda now: raw({"alg": ["RS256"], "kid": "rsa-1"}, claims(now), b"x"),
    "signed with the public key as a secret (PEM)": lambda now: hs256(now, rsa().as_pem(private=False)),
    "signed with the public key as a secret (JWK)": lambda now: hs256(
        now, json.dumps(key_set(rsa())["keys"][0]).encode()
    ),
    "signed with nothing": lambda now: hs256(now, b""),
    "an algorithm that is not accepted": lambda now: token(now, alg="RS512"),
    "the algorithm of another kind of key": lambda now: token(now, ec(), "ES256", {"kid": "rsa-1"}),
    "another's key": lambda now: token(now, rsa("stranger"), head={"kid": "rsa-1"}),
    "another's key that it brings along": lambda now: token(
        now, rsa("stranger"), head={"kid": "rsa-1", "jwk": key_set(rsa("stranger"))["keys"][0]}
    ),
    "another's key at a URL that it names": lambda now: token(
        now, rsa("stranger"), head={"jku": "http://127.0.0.1:1/keys", "kid": "stranger"}
    ),
    "a kid that is a path": lambda now: token(now, head={"kid": "../../../../etc/passwd"}),
    "a kid that is a statement": lambda now: token(now, head={"kid": "' OR '1'='1"}),
    "a kid that is no text": lambda now: resigned(now, {"alg": "RS256", "kid": {"a": 1}}),
    "no kid, where there are several keys": lambda now: token(now, head={"kid": None}),
    "a header that is critical": lambda now: resigned(now, {"alg": "RS256", "kid": "rsa-1", "crit": ["exp"], "exp": 1}),
    "another issuer": lambda now: token(now, iss="https://other.example"),
    "no issuer": lambda now: token(now, iss=None),
    "issuers": lambda now: token(now, iss=[ISSUER]),
    "another audience": lambda now: token(now, aud="other-api"),
    "no audience": lambda now: token(now, aud=None),
    "other audiences": lambda now: token(now, aud=["other-api", AUDIENCE + "2"]),
    "expired": lambda now: token(now, exp=int(now) - 31),
    "never expires": lambda now: token(now, exp=None),
    "expires in words": lambda now: token(now, exp="tomorrow"),
    "not yet valid": lambda now: token(now, nbf=int(now) + 31),
    "nobody's": lambda now: token(now, sub=None),
    "of an empty name": lambda now: token(now, sub=""),
    "of a number": lambda now: token(now, sub=7),
    "of an endless name": lambda now: token(now, sub="a" * 300),
    "of too many scopes": lambda now: token(now, scope=" ".join(f"s{number}" for number in range(201))),
    "of scopes that are too long": lambda now: token(now, scope="s" * 4100),
    "longer than any": lambda now: token(now, note="x" * 9000),
    "changed afterwards": lambda now: token(now)[:-10] + "A" * 10,
    "cut off": lambda now: token(now).rpartition(".")[0],
    "encrypted": lambda now: token(now) + ".x.y",
    "no token": lambda now: "hello",
    "empty": lambda now: " ",
    "dots": lambda now: "..",
    "claims that are no object": lambda now: raw({"alg": "RS256", "kid": "rsa-1"}, [1], b"x"),
    "a header as deep as it can be": lambda now: raw(b"[" * 5000, {}, b"x"),
    "claims as deep as they can be": lambda now: raw({"alg": "RS256", "kid": "rsa-1"}, b"[" * 5000, b"x"),
}


async def test_a_token_that_is_not_good_is_refused_on_every_route_and_says_nothing_of_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.auth")
    async with desk(**trusting(tmp_path, rsa(), ec())) as here:
        bodies: set[str] = set()
        for name, forge in FORGED.items():
            forged = forge(here.now)
            for path in ("/api/orders/list-orders", "/api/orders/who-am-i", "/", "/api/nowhere"):
                answer = await here.get(path, forged)
                assert answer.status_code == 401, (name, path, answer.text)
                assert answer.headers["www-authenticate"] == 'Bearer realm="api", error="invalid_token"'
                assert answer.headers["cache-control"] == "no-store"
                bodies.add(answer.text.replace(answer.json()["request_id"], ""))
        assert len(bodies) == 1
        assert here.gateway.authenticator is not None
        assert here.gateway.authenticator.refused == 4 * len(FORGED)
        assert here.handled("orders.list-orders") == here.handled("orders.who-am-i") == 0
    told = [record.getMessage() for record in caplog.records if record.name == "fissile.gateway.auth"]
    assert len(told) == 4 * len(FORGED)
    assert not any(record.levelno >= logging.ERROR for record in caplog.records)


async def test_good_tokens_are_accepted_with_each_kind_of_key(tmp_path: Path) -> None:
    async with desk(**trusting(tmp_path, rsa(), ec(), okp())) as here:
        for key, alg in ((rsa(), "RS256"), (rsa(), "PS256"), (ec(), "ES256"), (okp(), "EdDSA")):
            answer = await here.get("/api/orders/list-orders", token(here.now, key, alg))
            assert (answer.status_code, answer.json()["subject"]) == (200, "alice"), alg
        answer = await here.get("/api/orders/list-orders", token(here.now))
        assert answer.json()["kind"] == "user"
        assert sorted(answer.json()["scopes"]) == ["orders:read", "orders:write"]
        answer = await here.client.post(
            "/api/orders/place-order", json={}, headers={"authorization": f"bearer {token(here.now)}"}
        )
        assert (answer.status_code, answer.json()["subject"]) == (200, "alice")


async def test_clocks_may_differ_a_little(tmp_path: Path) -> None:
    async with desk(**trusting(tmp_path, rsa())) as here:
        for changes in ({"exp": int(here.now) - 29}, {"nbf": int(here.now) + 29}, {"aud": ["other", AUDIENCE]}):
            assert (await here.get(credential=token(here.now, **changes))).status_code == 200, changes
        assert (await here.get(credential=token(here.now, head={"kid": None}))).status_code == 200  # the only key


@pytest.mark.parametrize(
    ("granted", "scopes"),
    [
        ({"scope": "orders:read  a"}, ["a", "orders:read"]),
        ({"scope": None, "scp": ["orders:read", 7, ""]}, ["orders:read"]),
        ({"scope": None, "scp": "orders:read b"}, ["b", "orders:read"]),
        ({"scope": "orders:read", "scp": ["c"]}, ["c", "orders:read"]),
    ],
)
async def test_scopes_are_read_as_issuers_write_them(
    tmp_path: Path, granted: dict[str, Any], scopes: list[str]
) -> None:
    async with desk(jwt_tenant_claim="org", **trusting(tmp_path, rsa())) as here:
        answer = await here.get(credential=token(here.now, org="acme", **granted))
        assert (answer.status_code, sorted(answer.json()["scopes"])) == (200, scopes)
        assert answer.json()["tenant"] == "acme"
        assert (await here.get(credential=token(here.now, org=["acme"], **granted))).status_code == 401


async def test_a_token_that_was_good_ends_when_it_says(tmp_path: Path) -> None:
    async with desk(**trusting(tmp_path, rsa())) as here:
        credential = token(here.now, exp=int(here.now) + 20)
        for _ in range(3):
            assert (await here.get(credential=credential)).status_code == 200
        here.clock.advance(49)
        assert (await here.get(credential=credential)).status_code == 200
        here.clock.advance(2)
        assert (await here.get(credential=credential)).status_code == 401


async def test_hs256_is_taken_where_a_secret_says_so_and_only_with_that() -> None:
    secret = "a secret of 32 characters or more"
    settings: dict[str, Any] = {"jwt_secret": secret, "jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}
    async with desk(**settings) as here:
        good = hs256(here.now, secret.encode())
        assert (await here.get(credential=good)).status_code == 200
        for forged in (
            hs256(here.now, b"another secret of 32 characters!!"),
            token(here.now),
            raw({"alg": "none"}, claims(here.now)),
        ):
            assert (await here.get(credential=forged)).status_code == 401
        longer = token(here.now, OctKey.import_key(secret), "HS512", {"kid": None})
        assert (await here.get(credential=longer)).status_code == 401


async def test_the_public_key_is_no_secret_where_both_kinds_are_taken(tmp_path: Path) -> None:
    async with desk(jwt_secret="s" * 32, **trusting(tmp_path, rsa())) as here:
        assert (await here.get(credential=token(here.now))).status_code == 200
        for public in (rsa().as_pem(private=False), rsa().as_pem(private=False).strip()):
            assert (await here.get(credential=hs256(here.now, public))).status_code == 401


async def test_a_secret_in_a_set_of_public_keys_is_passed_over(tmp_path: Path) -> None:
    shared = OctKey.import_key("x" * 32, {"kid": "oct-1"})
    settings = trusting(tmp_path, rsa())
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [*key_set(rsa())["keys"], shared.as_dict(private=True)]}))
    async with desk(**settings) as here:
        assert (await here.get(credential=token(here.now))).status_code == 200
        assert (await here.get(credential=hs256(here.now, b"x" * 32, "oct-1"))).status_code == 401


async def test_who_asks_is_said_in_one_way(tmp_path: Path) -> None:
    async with desk(**trusting(tmp_path, rsa())) as here:
        good = f"Bearer {token(here.now)}"
        for headers in (
            [("authorization", good), ("authorization", good)],
            [("authorization", good), ("x-api-key", "fsl_a_b")],
        ):
            answer = await here.client.get("/api/orders/who-am-i", headers=headers)
            assert answer.status_code == 400
            assert 'error="invalid_request"' in answer.headers["www-authenticate"]
        for other in ("Basic YWxpY2U6c2VjcmV0", token(here.now), "Digest x", "Bearer", "Bearer \xff"):
            answer = await here.client.get(
                "/api/orders/who-am-i", headers=[(b"authorization", other.encode("latin-1"))]
            )
            assert answer.status_code == 401, other


async def test_probes_are_answered_whatever_they_carry(tmp_path: Path) -> None:
    async with desk(**trusting(tmp_path, rsa())) as here:
        assert (await here.get("/livez", "nonsense")).status_code == 200


async def test_a_hook_is_told_of_wrong_credentials_and_may_answer_otherwise(tmp_path: Path) -> None:
    from fissile_gateway import Problem

    async with desk(**trusting(tmp_path, rsa())) as here:
        told: list[str] = []

        def slow_down(scope: Any) -> Problem | None:
            told.append(scope["client"][0])
            return (
                Problem(429, "too-many-requests", "Later.", headers=(("retry-after", "1"),)) if len(told) > 2 else None
            )

        here.gateway.on_failed_authentication = slow_down
        statuses = [(await here.get(credential=f"guess-{number}")).status_code for number in range(4)]
        assert statuses == [401, 401, 429, 429]
        assert (await here.get(credential=token(here.now))).status_code == 200
        assert len(told) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jwt_jwks": "keys.json"}, "jwt_issuer and jwt_audience have to be set"),
        ({"jwt_jwks": "keys.json", "jwt_issuer": "x"}, "jwt_issuer and jwt_audience have to be set"),
        ({"jwt_algorithms": ("none",)}, "jwt_algorithms has none; there are RS256"),
        ({"jwt_algorithms": ("HS256",)}, "HS256 is taken where jwt_secret is set"),
        ({"jwt_algorithms": ()}, "jwt_algorithms has none"),
        ({"jwt_secret": "short"}, "fewer than 32 characters"),
    ],
)
def test_settings_that_would_open_a_door_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatewaySettings(**settings)


def test_the_secret_of_tokens_is_masked() -> None:
    settings = GatewaySettings(jwt_secret="a secret of 32 characters or more", jwt_issuer="i", jwt_audience=("a",))
    assert "a secret" not in repr(settings)
