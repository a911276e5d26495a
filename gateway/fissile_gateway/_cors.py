"""Which pages of other origins may read answers (CORS, the Fetch standard). None may unless told."""

from __future__ import annotations

from fissile_gateway._problems import Problem
from fissile_gateway._protection_settings import ProtectionSettings

Fields = tuple[tuple[bytes, bytes], ...]


class Cors:
    """Answers preflights, and adds fields to answers.

    Args:
        settings: Who may what.
    """

    def __init__(self, settings: ProtectionSettings) -> None:
        self.is_on = bool(settings.cors_origins)
        self._any = "*" in settings.cors_origins
        self._exact = frozenset(origin.encode() for origin in settings.cors_origins if "*" not in origin)
        below = [origin.partition("*") for origin in settings.cors_origins if "*." in origin]
        self._below = tuple((scheme.encode(), rest.encode()) for scheme, _, rest in below)
        self._methods = frozenset(method.upper().encode() for method in settings.cors_methods)
        self._headers = frozenset(header.lower().encode() for header in settings.cors_headers)
        credentials: Fields = ((b"access-control-allow-credentials", b"true"),) if settings.cors_credentials else ()
        exposed = ", ".join(settings.cors_exposed).lower().encode()
        self._on_answers: Fields = (*credentials, *(((b"access-control-expose-headers", exposed),) if exposed else ()))
        self._on_preflights: Fields = (
            *credentials,
            (b"access-control-allow-methods", ", ".join(settings.cors_methods).upper().encode()),
            (b"access-control-allow-headers", ", ".join(settings.cors_headers).lower().encode()),
            (b"access-control-max-age", str(settings.cors_max_age_s).encode()),
        )

    def fields(self, origin: bytes | None) -> Fields:
        """Return what is added to an answer; caches have to know that it depends on who asks, also where nobody said so."""
        if self._any:
            return () if origin is None else ((b"access-control-allow-origin", b"*"), *self._on_answers)
        vary = (b"vary", b"Origin")
        if origin is None or not self._allows(origin):
            return (vary,)
        return ((b"access-control-allow-origin", origin), *self._on_answers, vary)

    def preflight(self, origin: bytes, method: bytes, headers: bytes) -> Fields | Problem:
        """Answer a preflight: with fields, or a problem that says what is not allowed.

        Args:
            origin: The page's origin.
            method: The method it is going to use.
            headers: The fields it is going to send, separated by commas.
        """
        if not self._any and not self._allows(origin):
            return _refused(f"Pages of {origin.decode('latin-1')!r} may not use this API (FISSILE_CORS_ORIGINS).")
        if method not in self._methods:
            return _refused(f"The method {method.decode('latin-1')!r} is not for other origins (FISSILE_CORS_METHODS).")
        asked = {header.strip().lower() for header in headers.split(b",")} - {b""}
        if unknown := sorted(asked - self._headers):
            names = b", ".join(unknown[:5]).decode("latin-1")
            return _refused(f"The fields {names} are not for other origins (FISSILE_CORS_HEADERS).")
        vary = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
        allowed = b"*" if self._any else origin
        return ((b"access-control-allow-origin", allowed), *self._on_preflights, vary)

    def _allows(self, origin: bytes) -> bool:
        if origin in self._exact:
            return True
        return any(
            origin.startswith(scheme) and origin.endswith(rest) and len(origin) > len(scheme) + len(rest)
            for scheme, rest in self._below
        )


def _refused(detail: str) -> Problem:
    vary = ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
    return Problem(403, "cross-origin-refused", detail, headers=(vary,))
