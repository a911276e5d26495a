from __future__ import annotations

import pytest

from fissile import Query
from fissile_gateway._caching import cache_control
from tests.gateway import library
from tests.gateway.library import Desk
from tests.gateway.serving import serving

TITLE = "/api/library/title?book=emma"
ORDER = "/api/shop/get-order?order_id=1"


async def test_a_query_has_a_strong_entity_tag_of_its_bytes() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}) as running:
        first = (await running.client.get(TITLE)).headers["etag"]
        assert first == (await running.client.get(TITLE)).headers["etag"]
        desk.titles["emma"] = "Emma"
        changed = (await running.client.get(TITLE)).headers["etag"]
    assert first.startswith('"')
    assert first.endswith('"')
    assert changed != first


async def test_equal_replies_have_equal_tags_on_every_replica() -> None:
    async with serving(library.module) as one, serving(library.module) as other:
        assert (await one.client.get(TITLE)).headers["etag"] == (await other.client.get(TITLE)).headers["etag"]


@pytest.mark.parametrize("field", ["{}", "W/{}", '"other", W/"x,y" , {}', "*", '{},"z"'])
async def test_a_client_that_has_the_reply_is_told_so_without_a_body(field: str) -> None:
    async with serving(library.module) as running:
        tag = (await running.client.get(TITLE)).headers["etag"]
        for method in ("GET", "HEAD"):
            answer = await running.client.request(method, TITLE, headers={"if-none-match": field.format(tag)})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == tag
            assert answer.headers["cache-control"] == "public, max-age=60"
            assert "content-type" not in answer.headers
            assert "content-length" not in answer.headers


@pytest.mark.parametrize("field", ['"other"', "nonsense", "", '"', "*, x"])
async def test_a_client_that_has_something_else_gets_the_reply(field: str) -> None:
    async with serving() as running:
        answer = await running.client.get(ORDER, headers={"if-none-match": field})
    assert answer.status_code == 200
    assert answer.json()["order_id"] == "1"


async def test_several_fields_of_tags_count_as_one() -> None:
    async with serving() as running:
        tag = (await running.client.get(ORDER)).headers["etag"]
        answer = await running.client.get(ORDER, headers=[("if-none-match", '"a"'), ("if-none-match", tag)])
    assert answer.status_code == 304


async def test_a_query_without_an_age_is_asked_anew_each_time() -> None:
    async with serving() as running:
        answer = await running.client.get(ORDER)
    assert answer.headers["cache-control"] == "no-cache"


async def test_a_query_with_an_age_may_be_used_again_by_anybody() -> None:
    async with serving(library.module) as running:
        answer = await running.client.get(TITLE)
    assert answer.headers["cache-control"] == "public, max-age=60"


async def test_the_head_of_a_query_says_what_its_get_says() -> None:
    async with serving(library.module) as running:
        head, get = await running.client.head(TITLE), await running.client.get(TITLE)
    for name in ("etag", "cache-control", "content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


async def test_a_query_without_a_reply_has_nothing_to_be_tagged() -> None:
    async with serving(library.module) as running:
        answer = await running.client.get("/api/library/burn")
    assert answer.status_code == 204
    assert "etag" not in answer.headers
    assert answer.headers["cache-control"] == "no-cache"


async def test_an_error_of_a_query_is_not_kept() -> None:
    async with serving(library.module) as running:
        answer = await running.client.get("/api/library/title")
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


def test_what_needs_scopes_is_for_nobody_else() -> None:
    class Secret(Query[str], requires="secrets:read"):
        pass

    class Aged(Query[str], requires="secrets:read", max_age_s=60):
        pass

    assert cache_control(Secret) == "private, no-cache"
    assert cache_control(Aged) == "private, max-age=60"
