"""The whole way: sign up, sign in with a browser, do what one may, and be refused what one may not."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from hashlib import sha256
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from fissile import StartupFailed
from fissile_gateway import RouteLimits
from fissile_gateway._auth_asked import GOOD_S
from modules.accounts.contract import SetRoles
from tests.modules.accounts.accounts import BETTER, CHEAP, GOOD
from tests.modules.accounts.front import Front, bearer, front
from tests.runtime.helpers import until

DOUBLE = {
    "slug": "double",
    "title": "Double it",
    "difficulty": 1,
    "statement": "Write the double.",
    "cases": [{"stdin": "1", "stdout": "2"}],
}


async def sign_in(client: httpx.AsyncClient, password: str = GOOD, **headers: str) -> httpx.Response:
    return await client.post("/session", json={"name": "ada", "password": password}, headers=headers)


async def refresh(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/session/refresh", json={}, headers=headers)


def cookie_of(answer: httpx.Response, name: str = "session") -> Any:
    """A cookie that an answer sets. Any: what the standard library makes of it."""
    cookies: SimpleCookie = SimpleCookie()
    for header in answer.headers.get_list("set-cookie"):
        cookies.load(header)
    return cookies[name]


async def test_a_member_becomes_an_author_and_may_then_add_a_challenge(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        session = (await sign_in(browser)).json()
        assert set(session) == {"name", "roles", "expires_in_s", "access_token"}
        create = "/api/challenges/create-challenge"
        assert (await browser.post(create, json=DOUBLE)).status_code == 401
        assert (await browser.post(create, json=DOUBLE, headers=bearer(session["access_token"]))).status_code == 403
        await here.bus.execute(SetRoles("ada", ("author",)))
        session = (await refresh(browser)).json()
        assert session["roles"] == ["author"]
        assert (await browser.post(create, json=DOUBLE, headers=bearer(session["access_token"]))).status_code == 204
        shown = await browser.get("/api/accounts/get-account", headers=bearer(session["access_token"]))
        assert (shown.json()["name"], shown.json()["roles"]) == ("ada", ["author"])


async def test_hidden_cases_are_shown_to_authors_only_and_kept_by_no_cache(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        member = (await sign_in(browser)).json()["access_token"]
        await here.bus.execute(SetRoles("ada", ("author",)))
        author = (await refresh(browser)).json()["access_token"]
        whole = "/api/challenges/get-whole-challenge?slug=sum-of-two"
        assert (await browser.get(whole)).status_code == 401
        refused = await browser.get(whole, headers=bearer(member))
        assert refused.status_code == 403
        shown = await browser.get(whole, headers=bearer(author))
        assert shown.status_code == 200
        assert shown.headers["cache-control"].startswith(("no-store", "private"))
        cases, version = shown.json()["cases"], shown.json()["challenge"]["version"]
        assert len(cases) == shown.json()["challenge"]["cases"] >= 8
        # With who asks told or not, what everybody sees has none of them.
        for headers in ({}, bearer(member), bearer(author)):
            seen = (await browser.get("/api/challenges/get-challenge?slug=sum-of-two", headers=headers)).json()
            assert seen == shown.json()["challenge"]
            assert all(case not in seen["examples"] for case in cases)
        withdraw = {"slug": "sum-of-two", "version": version}
        for path in ("withdraw-challenge", "restore-challenge"):
            url = f"/api/challenges/{path}"
            assert (await browser.post(url, json=withdraw, headers=bearer(member))).status_code == 403
            assert (await browser.post(url, json=withdraw, headers=bearer(author))).status_code == 204
            changed = await browser.post(url, json={**withdraw, "version": version + 1}, headers=bearer(author))
            assert (changed.status_code, changed.json()["type"]) == (409, "/problems/challenge-changed")


async def test_an_access_token_ends_and_the_session_goes_on_until_it_is_signed_out(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        first = (await sign_in(browser)).json()["access_token"]
        account = "/api/accounts/get-account"
        assert (await browser.get(account, headers=bearer(first))).status_code == 200
        here.clock.advance(CHEAP.access_token_s + 31)
        assert (await browser.get(account, headers=bearer(first))).status_code == 401
        second = (await refresh(browser)).json()["access_token"]
        assert (await browser.get(account, headers=bearer(second))).status_code == 200
        out = await browser.delete("/session")
        assert (out.status_code, out.content, cookie_of(out)["max-age"]) == (204, b"", "0")
        assert "session" not in browser.cookies
        assert (await refresh(browser)).json()["type"] == "/problems/session-ended"
        assert (await browser.delete("/session")).status_code == 204


async def test_a_spent_cookie_ends_the_session_and_is_forgotten(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser, here.client() as thief:
        await here.sign_up()
        await sign_in(browser)
        thief.cookies.set("session", browser.cookies["session"], domain="play.test", path="/session")
        assert (await refresh(browser)).status_code == 200
        here.clock.advance(CHEAP.refresh_leeway_s + 1)
        stolen = await refresh(thief)
        assert (stolen.status_code, stolen.json()["type"]) == (401, "/problems/session-ended")
        assert cookie_of(stolen)["max-age"] == "0"
        assert (await refresh(browser)).status_code == 401


async def test_signing_in_again_ends_the_session_that_the_browser_had(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser, here.client() as other:
        await here.sign_up()
        await sign_in(browser)
        other.cookies.set("session", browser.cookies["session"], domain="play.test", path="/session")
        assert (await sign_in(browser)).status_code == 200
        assert (await refresh(other)).status_code == 401
        assert (await refresh(browser)).status_code == 200


async def test_who_changes_the_password_stays_signed_in_here_and_nowhere_else(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser, here.client() as elsewhere:
        await here.sign_up()
        token = (await sign_in(browser)).json()["access_token"]
        await sign_in(elsewhere)

        async def change(old: str, new: str, **headers: str) -> httpx.Response:
            return await browser.put("/session/password", json={"old": old, "new": new}, headers=headers)

        assert (await change(GOOD, BETTER)).status_code == 401
        assert (await change(GOOD, BETTER, **bearer(token), origin="https://evil.test")).status_code == 403
        wrong = await change("not the password", BETTER, **bearer(token))
        assert (wrong.status_code, wrong.json()["type"]) == (401, "/problems/sign-in-failed")
        weak = await change(GOOD, "password", **bearer(token))
        assert (weak.status_code, weak.json()["type"]) == (422, "/problems/weak-password")
        changed = await change(GOOD, BETTER, **bearer(token))
        assert changed.status_code == 200
        assert changed.headers["cache-control"] == "no-store"
        assert set(changed.json()) == {"name", "roles", "expires_in_s", "access_token"}
        assert (await refresh(elsewhere)).status_code == 401
        assert (await refresh(browser)).status_code == 200
        assert (await sign_in(elsewhere)).status_code == 401
        assert (await sign_in(elsewhere, BETTER)).status_code == 200


async def test_no_script_and_no_other_page_gets_the_cookie(tmp_path: Path) -> None:
    trusted = {"trusted_proxies": ("192.0.2.0/24",)}
    async with front(tmp_path, protection=trusted, session_idle_s=1000) as here:
        await here.sign_up()
        for scheme, headers, is_secure in (
            ("http", {}, False),
            ("https", {}, True),
            ("http", {"x-forwarded-proto": "https"}, True),
        ):
            async with here.client(scheme=scheme) as browser:
                for answer in (await sign_in(browser, **headers), await refresh(browser, **headers)):
                    if answer.status_code == 401:  # a client does not send a secure cookie without TLS
                        assert is_secure
                        assert scheme == "http"
                        continue
                    cookie = cookie_of(answer)
                    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/session", True, "Strict")
                    assert (bool(cookie["secure"]), cookie["domain"], cookie["max-age"]) == (is_secure, "", "1000")
                    assert answer.headers["cache-control"] == "no-store"
                    assert cookie.value not in answer.text


async def test_a_browser_that_has_signed_in_before_does_so_again_however_much_others_guess(tmp_path: Path) -> None:
    async with (
        front(tmp_path) as here,
        here.client(scheme="https") as browser,
        here.client("192.0.2.98") as new,
        here.client("192.0.2.99") as neighbour,
    ):
        await here.sign_up()
        cookie = cookie_of(await sign_in(browser), "device-ada")
        assert (cookie["path"], cookie["httponly"], cookie["samesite"], bool(cookie["secure"])) == (
            "/session",
            True,
            "Strict",
            True,
        )
        assert int(cookie["max-age"]) > 300 * 86_400
        await browser.delete("/session")
        assert "device-ada" in browser.cookies
        statuses: list[int] = []
        for number in range(3 * CHEAP.attempts):
            async with here.client(f"198.51.100.{number}") as guesser:
                statuses.append((await sign_in(guesser, BETTER)).status_code)
        # From however many addresses: so many guesses and no more.
        assert statuses == [401] * CHEAP.attempts + [429] * 2 * CHEAP.attempts
        answer = await sign_in(new)
        assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-attempts")
        assert "or on a device that has signed in to it before" in answer.json()["detail"]
        again = await sign_in(browser)
        assert again.status_code == 200
        assert cookie.value not in again.text
        # One that somebody made up is worth nothing.
        neighbour.cookies.set("device-ada", "x" * 4000, domain="play.test", path="/session")
        assert (await sign_in(neighbour)).status_code == 429


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://play.test"},
        {"origin": "https://evil.test"},
        {"origin": "http://play.test:8080"},
        {"origin": "http://play.test.evil.test"},
        {"origin": "null"},
    ],
)
async def test_what_a_page_of_another_origin_sends_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        await sign_in(browser)
        for answer in (
            await sign_in(browser, **headers),
            await refresh(browser, **headers),
            await browser.delete("/session", headers=headers),
        ):
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forged-request")
            assert "set-cookie" not in answer.headers
        assert (await refresh(browser, origin="http://play.test")).status_code == 200
        assert (await refresh(browser, **{"sec-fetch-site": "same-origin"})).status_code == 200


async def test_what_a_form_can_send_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        body = f'{{"name": "ada", "password": "{GOOD}"}}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = await browser.post("/session", content=body, headers={"content-type": kind})
            assert (answer.status_code, "set-cookie" in answer.headers) == (415, False)
            answer = await browser.post("/session/refresh", content="{}", headers={"content-type": kind})
            assert answer.status_code == 415
        answer = await browser.post("/session", json={"name": "ada", "password": GOOD, "remember": True})
        assert answer.status_code == 400


async def test_a_wrong_password_is_401_and_too_many_are_429_with_the_time(tmp_path: Path) -> None:
    async with front(tmp_path, protection={"rate_limit_failures": ""}) as here, here.client() as browser:
        await here.sign_up()
        for _ in range(CHEAP.attempts):
            answer = await sign_in(browser, BETTER)
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/sign-in-failed")
            assert "set-cookie" not in answer.headers
        answer = await sign_in(browser)
        assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-attempts")
        assert answer.headers["retry-after"] == "300"


async def test_errors_are_sentences_for_people(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        weak = await browser.post("/api/accounts/sign-up", json={"name": "ada", "password": "1234"})
        assert weak.status_code == 422
        assert weak.json()["detail"] == (
            "The password is too easy to guess. It has fewer than 8 characters. Nothing was changed."
        )
        assert weak.json()["error"] == {"reason": "It has fewer than 8 characters."}
        wrong = await browser.post("/session", json={"name": "ada", "password": GOOD})
        assert wrong.status_code == 401
        assert (
            wrong.json()["detail"]
            == "Name and password do not belong together. It does not tell which of them is wrong."
        )


# --- addresses that guess ---------------------------------------------------------------------------------------------


async def guess(client: httpx.AsyncClient, number: int, way: str, name: str) -> httpx.Response:
    body, headers = {"name": name, "password": f"{BETTER} {number}"}, {}
    if way == "/session":
        return await client.post("/session", json=body)
    if way == "key":
        headers = {"idempotency-key": f'"{number:08}"'}
    return await client.post("/api/accounts/sign-in", json=body, headers=headers)


@pytest.mark.parametrize("way", ["/session", "/api", "key"])
async def test_an_address_that_guesses_passwords_may_not_sign_in_and_all_else_goes_on(tmp_path: Path, way: str) -> None:
    async with (
        front(tmp_path) as here,
        here.client() as guesser,
        here.client("192.0.2.99") as ada,
        here.client() as neighbour,  # behind the same address
    ):
        await here.sign_up()
        token = (await sign_in(neighbour)).json()["access_token"]
        browser = await neighbour.post("/session", json={"name": "ada", "password": GOOD})
        assert browser.status_code == 200
        for number in range(20):
            # Each at another account: its own limit does not come into it.
            assert (await guess(guesser, number, way, f"user-{number}")).status_code == 401
        for path in ("/session", "/api/accounts/sign-in"):  # the right one neither: it would tell that it is right
            answer = await neighbour.post(path, json={"name": "ada", "password": GOOD})
            assert (answer.status_code, "retry-after" in answer.headers) == (429, True)
        assert (await guesser.get("/api/challenges/list-challenges")).status_code == 200
        assert (await neighbour.get("/api/accounts/get-account", headers=bearer(token))).status_code == 200
        assert (await neighbour.post("/session/refresh", json={})).status_code == 200
        assert (await neighbour.delete("/session")).status_code == 204
        assert (await sign_in(ada)).status_code == 200
        here.clock.advance(121)
        assert (await guess(guesser, 21, way, "user-21")).status_code == 401


async def test_who_is_not_signed_in_or_may_not_is_no_guesser(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        token = (await sign_in(browser)).json()["access_token"]
        for _ in range(30):
            assert (await browser.get("/api/accounts/get-account")).status_code == 401
            answer = await browser.post("/api/challenges/create-challenge", json=DOUBLE, headers=bearer(token))
            assert answer.status_code == 403


async def test_sign_in_sign_up_and_refresh_have_limits_per_address_whoever_asks(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser, here.client("192.0.2.99") as other:
        await here.sign_up()
        token = (await sign_in(browser)).json()["access_token"]
        limits = {"/session": 30, "/session/refresh": 60, "/api/accounts/sign-in": 30, "/api/accounts/sign-up": 10}
        bodies = {"/session/refresh": {}, "/api/accounts/sign-up": {"name": "ada", "password": GOOD}}
        for path, limit in limits.items():
            body = bodies.get(path, {"name": "ada", "password": GOOD})
            statuses: list[int] = []
            for number in range(limit + 2):
                # That somebody says who they are gives no second allowance.
                headers = bearer(token) if number % 2 else {}
                statuses.append((await browser.post(path, json=body, headers=headers)).status_code)
            first = statuses.index(429)
            assert first in (limit, limit - 1), (path, statuses)  # one sign-in was before
            assert set(statuses[first:]) == {429}
            assert set(statuses[:first]) <= {200, 409}
            assert (await other.post(path, json=body)).status_code in (200, 401, 409)


async def test_limits_of_a_path_where_nothing_is_end_the_start(tmp_path: Path) -> None:
    limits = {"route_limits": {"/sessions": RouteLimits(rate_limit="1/minute")}}
    with pytest.raises(StartupFailed, match="There are limits for '/sessions', where no route is"):
        async with front(tmp_path, protection=limits):
            pass


# --- API tokens, keys and forged tokens -------------------------------------------------------------------------------


async def api_token(here: Front, browser: httpx.AsyncClient, access_token: str) -> dict[str, str]:
    answer = await browser.post(
        "/api/accounts/create-token",
        json={"name": "ci", "scopes": ["submissions:write"]},
        headers=bearer(access_token),
    )
    assert answer.status_code == 200, answer.text
    made: dict[str, str] = answer.json()
    return made


async def test_an_api_token_that_was_revoked_is_refused_within_the_time_that_it_is_remembered(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        access_token = (await sign_in(browser)).json()["access_token"]
        made = await api_token(here, browser, access_token)
        whoever = "/api/accounts/get-account"
        # It is known, and has not the scope: 403; one that is not known is 401.
        assert (await browser.get(whoever, headers={"x-api-key": made["token"]})).status_code == 403
        ended = await browser.post("/api/accounts/revoke-token", json={"id": made["id"]}, headers=bearer(access_token))
        assert ended.status_code == 204
        here.clock.advance(GOOD_S)
        assert (await browser.get(whoever, headers={"x-api-key": made["token"]})).status_code == 401
        assert (await browser.get(whoever, headers=bearer(made["token"]))).status_code == 401


async def test_tokens_stay_good_while_keys_change(tmp_path: Path) -> None:
    day_s = 86_400.0
    async with front(tmp_path, session_s=200 * day_s, session_idle_s=100 * day_s) as here, here.client() as browser:
        await here.sign_up()
        old = (await sign_in(browser)).json()["access_token"]
        account = "/api/accounts/get-account"
        kids = {kid_of(old)}
        for _ in range(3):
            # In steps, as time passes: the module publishes a key, and signs with it when gateways have it.
            for step_s in (CHEAP.key_age_s - CHEAP.key_lead_s, CHEAP.key_lead_s - 60, 120):
                await pass_time(here, step_s)
                old = (await refresh(browser)).json()["access_token"]
                assert (await browser.get(account, headers=bearer(old))).status_code == 200
            kids.add(kid_of(old))
        assert len(kids) == 4


async def pass_time(here: Front, seconds: float) -> None:
    """Let time pass, and the module look after its keys."""
    rounds = here.clock.pauses.count(CHEAP.care_s)
    await until(lambda: CHEAP.care_s in here.clock.pauses)
    here.clock.advance(seconds)
    await until(lambda: here.clock.pauses.count(CHEAP.care_s) > rounds)


def kid_of(token: str) -> str:
    return str(json.loads(urlsafe_b64decode(token.partition(".")[0] + "=="))["kid"])


async def test_a_token_that_was_made_elsewhere_or_changed_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path, protection={"rate_limit_failures": ""}) as here, here.client() as browser:
        await here.sign_up()
        good = (await sign_in(browser)).json()["access_token"]
        now = int(here.clock.now().timestamp())
        claims = {"iss": "accounts", "aud": "playground", "sub": "ada", "scope": "accounts:self", "exp": now + 600}
        stranger, public = ECKey.generate_key("P-256"), OctKey.import_key(b"x" * 64)
        head, payload, signature = good.split(".")
        none = "eyJhbGciOiJub25lIn0"
        forged = [
            jwt.encode({"alg": "ES256", "kid": kid_of(good)}, claims, stranger, ["ES256"]),
            jwt.encode({"alg": "HS256", "kid": kid_of(good)}, claims, public, ["HS256"]),
            f"{none}.{payload}.",
            f"{none}.{payload}.{signature}",
            f"{head}.{payload}.{signature[:-8]}AAAAAAAA",
            f"{head}.{payload[:-8]}{payload[-4:]}{payload[-8:-4]}.{signature}",
        ]
        for wrong in forged:
            answer = await browser.get("/api/accounts/get-account", headers=bearer(wrong))
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/invalid-credential")
        assert (await browser.get("/api/accounts/get-account", headers=bearer(good))).status_code == 200


async def test_what_the_gateway_asks_for_nobody_else_can(tmp_path: Path) -> None:
    async with front(tmp_path) as here, here.client() as browser:
        await here.sign_up()
        digest = sha256(b"fsl_x").hexdigest()
        for path in ("get-signing-keys", f"find-api-token?sha256={digest}"):
            assert (await browser.get(f"/api/accounts/{path}")).status_code == 404


async def test_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with front(tmp_path) as here, here.client() as browser:
            await here.sign_up()
            await sign_in(browser, BETTER)
            session = (await sign_in(browser)).json()
            made = await api_token(here, browser, session["access_token"])
            spent = browser.cookies["session"]
            await refresh(browser)
            here.clock.advance(CHEAP.refresh_leeway_s + 1)
            browser.cookies.set("session", spent, domain="play.test", path="/session")
            assert (await refresh(browser)).status_code == 401
            await browser.post("/session", content=f'{{"name": "ada", "password": ["{GOOD}"]}}')
            await browser.post("/api/accounts/sign-in", json={"name": "ada", "password": GOOD, "more": 1})
            secrets = [GOOD, BETTER, spent, browser.cookies["device-ada"], session["access_token"], made["token"]]
    told = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "spent" in told
    assert [secret for secret in secrets if secret in told] == []
