"""Pages of other origins read nothing, unless the settings name them."""

from __future__ import annotations

import pytest

from tests.gateway.serving import guarded
from tests.gateway.test_problems import is_problem

FIND, ORDER = "/api/shop/find", "/api/shop/order"
APP = "https://app.example.com"


def asks(origin: str = APP, method: str = "POST", headers: str = "content-type") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": headers,
    }


async def test_nobody_may_read_unless_told() -> None:
    async with guarded() as here:
        for answer in (
            await here.client.get(FIND, headers={"origin": APP}),
            await here.client.options(ORDER, headers=asks()),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_page_that_is_named_may_read_and_others_may_not() -> None:
    async with guarded(cors_origins=(APP,)) as here:
        answer = await here.client.get(FIND, headers={"origin": APP})
        assert answer.headers["access-control-allow-origin"] == APP
        assert "ratelimit" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        for origin in ("https://evil.example", "http://app.example.com", f"{APP}.evil.example", "null"):
            other = await here.client.get(FIND, headers={"origin": origin})
            assert other.status_code == 200
            assert "access-control-allow-origin" not in other.headers
            assert "Origin" in other.headers["vary"]
        assert "Origin" in (await here.client.get(FIND)).headers["vary"]


async def test_a_preflight_is_answered_before_the_routes() -> None:
    async with guarded(cors_origins=(APP,), cors_max_age_s=60) as here:
        for path in (ORDER, "/api/nothing/here"):
            answer = await here.client.options(path, headers=asks())
            assert answer.status_code == 204
            assert answer.content == b""
            assert answer.headers["access-control-allow-origin"] == APP
            assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
            assert "content-type" in answer.headers["access-control-allow-headers"].split(", ")
            assert answer.headers["access-control-max-age"] == "60"
            assert answer.headers["vary"].startswith("Origin")
        assert here.watch.seen == []


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        (asks(origin="https://evil.example"), "FISSILE_CORS_ORIGINS"),
        (asks(method="PUT"), "FISSILE_CORS_METHODS"),
        (asks(headers="content-type, x-evil"), "FISSILE_CORS_HEADERS"),
    ],
)
async def test_a_preflight_for_more_than_is_allowed_is_a_403_that_says_what(headers: dict[str, str], word: str) -> None:
    async with guarded(cors_origins=(APP,)) as here:
        answer = await here.client.options(ORDER, headers=headers)
        assert word in is_problem(answer, 403, "cross-origin-refused")["detail"]
        assert "access-control-allow-methods" not in answer.headers


async def test_an_ordinary_options_request_goes_to_the_route() -> None:
    async with guarded(cors_origins=(APP,)) as here:
        answer = await here.client.options(ORDER, headers={"origin": APP})
        assert "POST" in answer.headers["allow"]
        assert answer.headers["access-control-allow-origin"] == APP


async def test_all_pages_may_read_where_the_settings_say_so_but_never_with_cookies() -> None:
    async with guarded(cors_origins=("*",)) as here:
        answer = await here.client.get(FIND, headers={"origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        preflight = await here.client.options(ORDER, headers=asks("https://any.example"))
        assert preflight.headers["access-control-allow-origin"] == "*"
    with pytest.raises(ValueError, match="name the origins"):
        async with guarded(cors_origins=("*",), cors_credentials=True):
            pass


async def test_cookies_are_for_pages_that_are_named() -> None:
    async with guarded(cors_origins=(APP,), cors_credentials=True) as here:
        answer = await here.client.get(FIND, headers={"origin": APP})
        assert (answer.headers["access-control-allow-origin"], answer.headers["access-control-allow-credentials"]) == (
            APP,
            "true",
        )


async def test_the_pages_of_all_subdomains_can_be_named_together() -> None:
    async with guarded(cors_origins=("https://*.example.com",)) as here:
        for origin, is_allowed in (
            (APP, True),
            ("https://a.b.example.com", True),
            ("https://example.com", False),
            ("https://evilexample.com", False),
            ("http://app.example.com", False),
            ("https://.example.com", False),
        ):
            answer = await here.client.get(FIND, headers={"origin": origin})
            assert ("access-control-allow-origin" in answer.headers) is is_allowed, origin


async def test_a_page_can_read_why_its_request_was_refused() -> None:
    async with guarded(cors_origins=(APP,), rate_limit="1/minute") as here:
        answers = [await here.client.get(FIND, headers={"origin": APP}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].headers["access-control-allow-origin"] == APP
