"""How a query's reply may be used again: entity tags, conditional requests and Cache-Control (RFC 9110, 8.8.3 and 13.1.2; RFC 9111)."""

from __future__ import annotations

import re
from hashlib import blake2b

from fissile import Query

_TAG = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')

Headers = dict[str, str]


class Caching:
    """What the answers to one query say about their use.

    Args:
        query: The class of the query.
    """

    def __init__(self, query: type[Query[object]]) -> None:
        max_age_s = query.gateway_max_age_s
        age = "no-cache" if max_age_s is None else f"max-age={int(max_age_s)}"
        # Who sends a credential may get another reply to the same URL, so it is for nobody else; and who needs one always does.
        self._private: Headers = {"cache-control": f"private, {age}"}
        self._public: Headers = {"cache-control": age if max_age_s is None else f"public, {age}"}
        if max_age_s is not None:
            self._public["vary"] = self._private["vary"] = "Authorization, X-API-Key"
        if query.required_scopes:
            self._public = self._private

    def fields(self, *, is_private: bool) -> Headers:
        """Return the fields that stand in every answer.

        Args:
            is_private: Whether the request says who it is from.
        """
        return self._private if is_private else self._public


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
