"""The page and its files, as HTTP has them."""

from __future__ import annotations

import gzip
import re

import httpx
import pytest

from tests.gateway.serving import Shop, serving

ASYNCIO = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
"""For what does not depend on the loop."""


def paths_in(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(/static/[^"]+)"', page)


async def files(running: Shop) -> dict[str, httpx.Response]:
    """Load the page and all files that it and its modules name."""
    page = (await running.client.get("/")).text
    waiting, found = paths_in(page), dict[str, httpx.Response]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        answer = found[path] = await running.client.get(path)
        assert answer.status_code == 200, path
        if path.endswith(".js") and "/vendor/" not in path:
            waiting += [
                str(httpx.URL(path).join(name))
                for name in re.findall(r'(?:from|import\()\s*"(\./[^"]+|\.\./[^"]+)"', answer.text)
            ]
    return found


async def test_the_page_has_a_strict_policy_and_no_scripts_or_styles_within() -> None:
    async with serving() as running:
        answer = await running.client.get("/")
        again = await running.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert answer.headers.get_list("content-security-policy") == [policy]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self' 'nonce-")
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert f'nonce="{nonce}"' in answer.text
    assert nonce not in again.text
    assert "{{" not in answer.text
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|style=|http:", answer.text)


@ASYNCIO
async def test_every_file_is_kept_for_ever_under_a_name_that_changes_with_it() -> None:
    async with serving() as running:
        found = await files(running)
    assert len(found) > 20
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    for path, answer in found.items():
        assert answer.headers["content-type"] == types[path.rpartition(".")[2]], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["etag"]
    assert len({path.split("/")[2] for path in found}) == 1
    # All that a first visit loads is small.
    sizes = {path.split("/", 3)[3]: int(answer.headers["content-length"]) for path, answer in found.items()}
    assert sizes["vendor/codemirror.js"] < 140 * 1024
    assert sum(sizes.values()) - sizes["vendor/codemirror.js"] < 60 * 1024, sizes


@ASYNCIO
async def test_a_file_comes_compressed_or_not_as_its_client_can_read_it_and_not_twice() -> None:
    async with serving() as running:
        path = next(path for path in paths_in((await running.client.get("/")).text) if path.endswith("main.js"))
        plain = await running.client.get(path, headers={"accept-encoding": "identity"})
        packed = await running.client.get(path, headers={"accept-encoding": "br, gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.text == plain.text
        assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0)) < len(plain.content)
        assert packed.headers["etag"] != plain.headers["etag"]
        for answer in (plain, packed):
            assert "accept-encoding" in answer.headers["vary"].lower()
            tag = answer.headers["etag"]
            encoding = answer.headers.get("content-encoding", "identity")
            unchanged = await running.client.get(path, headers={"if-none-match": tag, "accept-encoding": encoding})
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
        head = await running.client.head(path)
        assert (head.status_code, head.content) == (200, b"")


@ASYNCIO
async def test_a_page_of_another_version_gets_what_there_is_and_does_not_keep_it() -> None:
    async with serving() as running:
        answer = await running.client.get("/static/0123456789abcdef/main.js")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@ASYNCIO
async def test_nothing_else_is_served() -> None:
    names = [
        "nothing.js",
        "index.html",
        "vendor/LICENSE",
        "vendor/README.md",
        "vendor/build/build.mjs",
        "vendor/build/entry.js",
        "..%2f..%2fplayground.py",
        "../../playground.py",
        "%2e%2e/%2e%2e/_static.py",
        "/etc/passwd",
        "main.js%00",
    ]
    async with serving() as running:
        for name in names:
            answer = await running.client.get(httpx.URL(f"{running.url}/static/x/{name}"))
            assert answer.status_code in (400, 404), name
            assert answer.headers["content-type"] == "application/problem+json"
