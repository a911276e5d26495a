"""How a query's reply may be used again: entity tags, conditional requests and Cache-Control (RFC 9110, 8.8.3 and 13.1.2; RFC 9111)."""

from __future__ import annotations

import re
from hashlib import blake2b

from fissile import Query

_TAG = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def cache_control(query: type[Query[object]]) -> str:
    """Return what the answers to a query say about their use. To who says who they are, the gateway makes it private besides.

    Args:
        query: The class of the query.
    """
    age = "no-cache" if query.gateway_max_age_s is None else f"max-age={int(query.gateway_max_age_s)}"
    if query.required_scopes:
        return f"private, {age}"
    return age if query.gateway_max_age_s is None else f"public, {age}"


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag of a body: equal bytes have equal tags, on every replica and after every restart."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def is_none_match(field: bytes, tag: str) -> bool:
    """Tell whether a client already has what a tag stands for.

    Args:
        field: What it sent as If-None-Match: tags, strong or weak, or `*`.
        tag: The tag of what it would get.
    """
    return field.strip() == b"*" or tag.encode() in _TAG.findall(field)
