"""The playground: the page at `/`, and its files.

The page itself is small and made for each request, since its policy names a number that is used once (the editor makes style sheets of its
own). All else is in `/static/<version>/`, where the version follows from the files: a browser keeps them for ever, and asks for others when
they change. Modules name each other by relative paths, so they all come from the same version.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from secrets import token_urlsafe

from anyio import to_thread
from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from fissile_gateway import current_process, operation

from ._static import StaticFile, StaticFiles, read

blueprint = Blueprint("playground", __name__)

FOLDER = Path(__file__).parent / "static"
PAGE = "index.html"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No text becomes markup, by whatever mistake: what would do that throws.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_KEPT_FOR_EVER = "public, max-age=31536000, immutable"
_ASKED_EACH_TIME = "no-cache"

_read_once = cache(read)


async def _files() -> StaticFiles:
    # While somebody works on the page, a reload of the browser has to show what they wrote.
    return await to_thread.run_sync(read if current_process().is_dev else _read_once, FOLDER)


@blueprint.get("/")
@operation(media_type="text/html")
async def playground() -> Response:
    """Show the playground."""
    files = await _files()
    nonce = token_urlsafe(16)
    page = files.files[PAGE].content.decode()
    page = page.replace("{{version}}", files.version).replace("{{nonce}}", nonce)
    return Response(
        page,
        200,
        {
            "cache-control": _ASKED_EACH_TIME,
            "content-security-policy": _POLICY.format(nonce=nonce),
            "cross-origin-opener-policy": "same-origin",
            "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        },
        content_type="text/html; charset=utf-8",
    )


@blueprint.get("/static/<version>/<path:name>")
@operation(
    openapi={
        "responses": {
            "200": {"description": "The file.", "content": {"*/*": {"schema": {"type": "string"}}}},
            "304": {"description": "It is the one that the client has."},
            "404": {"description": "There is no such file."},
            "default": {"description": "A problem."},
        }
    }
)
async def static_file(version: str, name: str) -> Response:
    """Send a file of the playground."""
    files = await _files()
    file = files.files.get(name)
    if file is None or name == PAGE:
        raise NotFound(f"The playground has no file {name!r}.")
    # A page that was loaded from another version, such as from another replica during a change, gets what there is, and does not keep it.
    kept = _KEPT_FOR_EVER if version == files.version else _ASKED_EACH_TIME
    response = _as_accepted(file)
    response.headers["cache-control"] = kept
    response.headers["cross-origin-resource-policy"] = "same-origin"
    return response


def _as_accepted(file: StaticFile) -> Response:
    is_compressed = len(file.compressed) < len(file.content) and request.accept_encodings.quality("gzip") > 0
    tag = f"{file.tag}-gzip" if is_compressed else file.tag
    if request.if_none_match.contains_weak(tag):
        response = Response(b"", 304)
    else:
        response = Response(file.compressed if is_compressed else file.content, content_type=file.media_type)
        if is_compressed:
            response.headers["content-encoding"] = "gzip"
    response.set_etag(tag)
    response.headers["vary"] = "Accept-Encoding"
    return response
