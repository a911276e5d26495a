"""What stands between the server and the routes: each request passes here first, and most that are refused get no further.

In order: who the client is, the host, preflights, the URL, rate limits, the module's circuit, a place among the requests in progress. Only then
does the framework see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from time import thread_time
from typing import TYPE_CHECKING, Any

import msgspec
from werkzeug.exceptions import HTTPException

from fissile import DeadlineExceeded, DeclaredError, Fault, HandlerFailed, InvalidMessage, StartupFailed, Unavailable
from fissile_gateway._admission import Arrivals, Gate, Patience
from fissile_gateway._breaker import Breaker, BreakerPolicy
from fissile_gateway._client import Hosts, Proxies, network_of
from fissile_gateway._cors import Cors
from fissile_gateway._counted import address_key, client_key
from fissile_gateway._gatekeeper import PROBES
from fissile_gateway._problems import CREDENTIAL_REFUSED, Problem, ProblemError, overloaded
from fissile_gateway._protection_settings import ProtectionSettings, RouteLimits
from fissile_gateway._rates import Fields, Rate, Rates
from fissile_gateway._refusals import failed_too_often, locked_out, open_circuit, wrong_host
from fissile_gateway._routes import Route
from fissile_gateway._strict import InvalidInput
from fissile_gateway._uploads import Uploads

if TYPE_CHECKING:
    from fissile_gateway._exchange import Exchange

_PAGE: Fields = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
_API: Fields = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
_NO_STORE: Fields = ((b"cache-control", b"no-store"),)
_VARY: Fields = ((b"vary", b"Authorization, X-API-Key"),)

Scope = Any  # an ASGI scope


class Rule(msgspec.Struct, eq=False):
    """What holds for one route.

    Attributes:
        timeout_s: How long a request may take, in seconds.
        max_body_bytes: The size of its body.
        gates: Bounds of requests in progress: of all, of the module, of the route.
        rates: Limits per client or address: of the route, of the module, of all.
        breaker: The circuit of the module; none for what calls no module.
    """

    timeout_s: float
    max_body_bytes: int
    gates: tuple[Gate, ...]
    rates: tuple[Rate, ...] = ()
    breaker: Breaker | None = None


class ProtectionStatistics(msgspec.Struct, frozen=True):
    """What was refused so far.

    Attributes:
        shed: Requests that were answered 503, because there were too many.
        limited: Requests that were answered 429.
        waiting: Requests that wait for a place now.
        uploads: Requests whose bodies are on their way now; they have no place meanwhile.
        keys: Clients and addresses that are remembered.
        circuits: The state of each module's circuit.
        opened: How often each has opened.
    """

    shed: int
    limited: int
    waiting: int
    uploads: int
    keys: int
    circuits: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    opened: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class Protection:
    """Decides what is let in.

    Attributes:
        arrivals: Requests that were read and not begun yet.
        requests: Bounds all requests in progress.
        uploads: Those whose bodies are on their way.
        limited: How many requests were answered 429.
        breakers: The circuits, by the names of the modules.

    Args:
        settings: What it defends with.
        routes: The derived routes.
        requests_at_once: How many requests may be in progress.
        request_timeout_s: How long one may take unless told, in seconds.
        max_body_bytes: The size of a body unless told.
        clock: Returns seconds.
        tells_who_asks: Whether credentials are looked at.

    Raises:
        StartupFailed: A limit is set for a route that does not exist, or the store of rate limits cannot be used.
    """

    def __init__(
        self,
        settings: ProtectionSettings,
        routes: Iterable[Route],
        *,
        requests_at_once: int,
        request_timeout_s: float,
        max_body_bytes: int,
        clock: Callable[[], float],
        tells_who_asks: bool = False,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.patience = Patience(settings.wait_s, clock)
        self.arrivals = Arrivals(self.patience, thread_time)
        self.requests = self._gate("", requests_at_once)
        self.uploads = Uploads(requests_at_once)
        self.limited = 0
        self.breakers: dict[str, Breaker] = {}
        self.proxies = Proxies(settings.networks(), settings.trusted_hops, settings.forwarded)
        self._cors = Cors(settings)
        self._hosts = Hosts(settings.allowed_hosts)
        self._by_client = (Rate("client", settings.rate_limit),) if settings.rate_limit else ()
        self._default = Rule(request_timeout_s, max_body_bytes, (self.requests,), self._by_client)
        routes = tuple(routes)
        self._rules = self._make_rules(routes)
        # What an answer says depends on who asks, also where it says so to everybody by now.
        vary = _VARY if tells_who_asks else ()
        self._api: Fields = (*_API, *vary)
        self._command: Fields = (*_API, *_NO_STORE, *vary)
        csp: Fields = ((b"content-security-policy", settings.page_csp.encode()),) if settings.page_csp else ()
        self._page: Fields = (*_PAGE, *csp, *vary)
        hsts = f"max-age={settings.hsts_s}".encode()
        self._hsts: Fields = ((b"strict-transport-security", hsts),) if settings.hsts_s else ()
        self._by_address = Rate("address", settings.rate_limit_address) if settings.rate_limit_address else None
        self._failures = Rate("failures", settings.rate_limit_failures) if settings.rate_limit_failures else None
        self._suspects: dict[str, float] = {}  # networks that ask too often, and until when they are locked out
        self._guessers: dict[
            str, float
        ] = {}  # networks that have failed to prove who they are, and until when they may not try
        self._guessable = self._guessable_of(routes)
        try:
            self.rates = Rates(settings.rate_limit_storage, settings.rate_limit_keys, clock)
        except ValueError as error:
            raise StartupFailed((Fault(f"{error}.", "FISSILE_RATE_LIMIT_STORAGE", "Change the setting."),)) from None

    # --- the order of things -----------------------------------------------------------------------------------------

    def rule(self, path: str) -> Rule:
        """Return what holds for a path."""
        return self._rules.get(path, self._default)

    @property
    def gates(self) -> dict[str, tuple[Gate, ...]]:
        """The bounds of routes that have their own, by path."""
        return {path: rule.gates[1:] for path, rule in self._rules.items() if len(rule.gates) > 1}

    def see(self, scope: Scope, exchange: Exchange, path: str) -> None:
        """Find out who the client is, and which fields its answer gets, whatever it is."""
        peer, headers = (scope.get("client") or ("", 0))[0], scope["headers"]
        scheme: str = scope["scheme"]
        if self.proxies.trust(peer):
            client = self.proxies.client(peer, scheme, headers)
            peer, scheme = client.address, client.scheme
            scope["client"], scope["scheme"] = (peer, 0), scheme
            if client.host is not None:
                host = client.host.encode()
                scope["headers"] = [(name, host if name == b"host" else value) for name, value in headers]
                exchange.host = host
        exchange.address = peer
        fields: Fields = self._page
        if path.startswith("/api/"):
            fields = self._command if scope.get("method") == "POST" else self._api
        if scheme == "https":
            fields += self._hsts
        if self._cors.is_on:
            fields += self._cors.fields(exchange.origin)
        exchange.fields = fields

    def refusal(self, scope: Scope, exchange: Exchange, path: str) -> Problem | Fields | None:
        """Return why a request is not let in; fields instead of a problem are the answer to a preflight."""
        if path in PROBES:
            return None
        if status := self._hosts.refuses(exchange.host.decode("latin-1")):
            return wrong_host(status, exchange.host)
        if exchange.origin is not None and self._cors.is_on and scope["method"] == "OPTIONS":
            asked = dict(scope["headers"])
            method = asked.get(b"access-control-request-method")
            if method is not None:
                return self._cors.preflight(exchange.origin, method, asked.get(b"access-control-request-headers", b""))
        return self._check_url(scope) or self._check_length(exchange, path)

    def _check_url(self, scope: Scope) -> Problem | None:
        query: bytes = scope["query_string"]
        size = len(query) + len(scope.get("raw_path") or scope["path"])
        if size > self.settings.max_url_bytes:
            detail = f"The URL has {size} bytes; {self.settings.max_url_bytes} are allowed (FISSILE_MAX_URL_BYTES)."
            return Problem(414, "url-too-long", detail)
        if query and query.count(b"&") >= self.settings.max_query_fields:
            most = self.settings.max_query_fields
            return Problem(
                400, "too-many-parameters", f"The query has more than {most} parameters (FISSILE_MAX_QUERY_FIELDS)."
            )
        return None

    def _check_length(self, exchange: Exchange, path: str) -> Problem | None:
        limit = self.rule(path).max_body_bytes
        if exchange.length is not None and exchange.length > limit:
            return Problem(413, "body-too-large", f"The body is larger than {limit} bytes.")
        return None

    @property
    def counts_addresses(self) -> bool:
        """Whether `count` has anything to do."""
        return self._by_address is not None or bool(self._suspects)

    async def count(self, exchange: Exchange) -> Problem | None:
        """Count a request for its address, and return why it is refused. What is counted comes before any authentication."""
        wait_s = self._left_s(self._suspects, exchange.network)
        if wait_s:
            self.limited += 1
            return locked_out(wait_s)
        if self._by_address is None:
            return None
        problem = await self._count(exchange, self._by_address, exchange.network)
        if problem is not None:
            self._lock_out(
                self._suspects, exchange.network, self.rates.memory.count(self._by_address, exchange.network, 0).wait_s
            )
        return problem

    @property
    def has_locked_out(self) -> bool:
        """Whether any address is locked out."""
        return bool(self._suspects)

    def locked_out_s(self, peer: str) -> float:
        """Return for how long the address of a connection is refused, in seconds; a proxy's never is."""
        return 0.0 if self.proxies.trust(peer) else self._left_s(self._suspects, network_of(peer))

    def _left_s(self, refused: dict[str, float], network: str) -> float:
        until = refused.get(network)
        if until is None:
            return 0.0
        wait_s = until - self.clock()
        if wait_s <= 0:
            del refused[network]
        return max(0.0, wait_s)

    def _lock_out(self, refused: dict[str, float], network: str, wait_s: float) -> None:
        """Refuse an address for a while, without counting again: that is what makes refusing cheap."""
        if len(refused) >= self.settings.rate_limit_keys:
            del refused[next(iter(refused))]
        refused[network] = self.clock() + wait_s

    async def count_client(self, exchange: Exchange, rule: Rule) -> Problem | None:
        """Count a request for its client, and return why it is refused. To be called when the identity is known."""
        if not rule.rates:
            return None
        client = client_key(exchange)
        for rate in rule.rates:
            problem = await self._count(exchange, rate, address_key(exchange) if rate.is_of_address else client)
            if problem is not None:
                return problem
        return None

    async def _count(self, exchange: Exchange, rate: Rate, key: str) -> Problem | None:
        verdict = await self.rates.count(rate, key) if self.rates.is_shared else self.rates.memory.count(rate, key)
        if verdict.is_allowed and rate is not self._by_address:
            exchange.limit_fields = rate.fields(verdict)
        elif not verdict.is_allowed:
            exchange.limit_fields = rate.fields(verdict)
            self.limited += 1
            return rate.problem(verdict)
        return None

    async def admit(self, exchange: Exchange, rule: Rule) -> Problem | None:
        """Find a request its places; return why there is none."""
        if rule.breaker is not None:
            exchange.call = rule.breaker.begin()
            if exchange.call is None:
                return open_circuit(rule.breaker)
        for gate in rule.gates:
            if gate.running < gate.limit:
                gate.running += 1
            elif not await gate.enter():
                exchange.leave_circuit()
                return overloaded(f"{gate.running} requests{gate.name} are in progress.")
            exchange.gates.append(gate)
        return None

    def waited_too_long(self, waited_s: float) -> bool:
        """Tell whether a request is given up that had to wait for the event loop."""
        if waited_s <= self.patience.longest_s:
            return False
        self.requests.refuse()
        return True

    def failed(self, error: BaseException | None) -> bool | None:
        """Tell whether an error says that a module does not work; None where the module was not asked."""
        if error is None:
            return False
        if isinstance(error, (InvalidInput, InvalidMessage, ProblemError, HTTPException)):
            return None
        kinds = (Unavailable, DeadlineExceeded, *((HandlerFailed,) if self.settings.breaker_counts_failed else ()))
        return isinstance(error, kinds)

    @property
    def has_guessers(self) -> bool:
        """Whether anybody may not prove who they are for a while."""
        return bool(self._guessers)

    def guess(self, network: str, method: str, path: str) -> Problem | None:
        """Return why a request is refused that would prove who somebody is: too many have failed there.

        Whoever has a valid credential, and who does not say who they are, is not touched: many people may share an address.
        """
        if (method, path) not in self._guessable:
            return None
        wait_s = self._left_s(self._guessers, network)
        if not wait_s:
            return None
        self.limited += 1
        return failed_too_often(wait_s)

    def on_failed_authentication(self, address: str) -> Problem | None:
        """Note that somebody at an address could not prove who he is; beyond the limit, return what is answered for a while.

        Args:
            address: The client's address, `Exchange.address`.
        """
        if self._failures is None:
            return None
        network = network_of(address)
        wait_s = self._left_s(self._guessers, network)
        if wait_s:
            self.limited += 1
            return failed_too_often(wait_s)
        verdict = self.rates.memory.count(self._failures, network)
        if not verdict.remaining:
            wait_s = max(1.0, self.rates.memory.count(self._failures, network, 0).wait_s)
            self._lock_out(self._guessers, network, wait_s)
        return None

    def statistics(self) -> ProtectionStatistics:
        """Count what was refused."""
        gates = {id(gate): gate for rule in (self._default, *self._rules.values()) for gate in rule.gates}.values()
        return ProtectionStatistics(
            sum(gate.refused for gate in gates),
            self.limited,
            sum(gate.waiting for gate in gates),
            len(self.uploads),
            len(self.rates.memory),
            {name: breaker.state for name, breaker in self.breakers.items()},
            {name: breaker.opened for name, breaker in self.breakers.items()},
        )

    # --- rules -------------------------------------------------------------------------------------------------------

    def _gate(self, name: str, limit: int) -> Gate:
        return Gate(name, limit, self.settings.requests_waiting, self.patience, self.clock)

    def _make_rules(self, routes: tuple[Route, ...]) -> dict[str, Rule]:
        settings = self.settings
        known = {route.module for route in routes} | {route.name for route in routes}
        faults = [
            Fault(
                f"There are limits for {name!r}, which is no module and no message of the gateway.",
                "[tool.fissile.gateway.routes]",
                f"Name one of: {', '.join(sorted(known)) or 'none'}.",
            )
            for name in settings.route_limits
            if name not in known and not name.startswith("/")
        ]
        if faults:
            raise StartupFailed(tuple(faults))
        policy = BreakerPolicy(
            settings.breaker_failures,
            settings.breaker_rate,
            settings.breaker_calls,
            settings.breaker_open_s,
            settings.breaker_trials,
        )
        shared: dict[str, Gate] = {}
        rules: dict[str, Rule] = {}
        for route in routes:
            module = settings.route_limits.get(route.module, RouteLimits())
            own = settings.route_limits.get(route.name, RouteLimits())
            gates = [self.requests]
            for name, limits in ((route.module, module), (route.name, own)):
                if limits.requests_at_once is not None:
                    gates.append(shared.setdefault(name, self._gate(f" to {name}", limits.requests_at_once)))
            breaker = None
            if policy.failures and route.kind != "topic":
                breaker = self.breakers.setdefault(route.module, Breaker(route.module, policy, self.clock))
            contract_s: float | None = getattr(route.target, "gateway_timeout_s", None)
            sizes = (self._default.max_body_bytes, module.max_body_bytes, own.max_body_bytes)
            rules[route.path] = Rule(
                own.timeout_s or module.timeout_s or contract_s or self._default.timeout_s,
                min(size for size in sizes if size is not None),
                tuple(gates),
                (*_rates(route.name, own), *_rates(route.module, module), *self._by_client),
                breaker,
            )
        for path, own in settings.route_limits.items():
            if path.startswith("/"):
                rules[path] = self._rule_of_path(path, own)
        return rules

    def _guessable_of(self, routes: tuple[Route, ...]) -> set[tuple[str, str]]:
        """Return the routes where somebody proves who they are with what can be guessed."""
        found: set[tuple[str, str]] = set()
        for route in routes:
            errors: tuple[type[DeclaredError], ...] = getattr(route.target, "declared_errors", ())
            says = any(error.status == CREDENTIAL_REFUSED for error in errors)
            for name in (route.module, route.name):
                configured = self.settings.route_limits.get(name, RouteLimits()).guessable
                says = says if configured is None else configured
            if says:
                found.add((route.method, route.path))
        return found

    def add_route(self, path: str, methods: Collection[str], errors: Iterable[type[DeclaredError]]) -> None:
        """Note which errors a hand-written route tells.

        Args:
            path: Its path.
            methods: Its methods.
            errors: The errors.
        """
        says = self.settings.route_limits.get(path, RouteLimits()).guessable
        if any(error.status == CREDENTIAL_REFUSED for error in errors) if says is None else says:
            self._guessable.update((method, path) for method in methods)

    def _rule_of_path(self, path: str, limits: RouteLimits) -> Rule:
        gates = [self.requests]
        if limits.requests_at_once is not None:
            gates.append(self._gate(f" to {path}", limits.requests_at_once))
        size = min(self._default.max_body_bytes, limits.max_body_bytes or self._default.max_body_bytes)
        rates = (*_rates(path, limits), *self._by_client)
        return Rule(limits.timeout_s or self._default.timeout_s, size, tuple(gates), rates)

    def check_paths(self, paths: Collection[str]) -> None:
        """Check that the hand-written routes are there that have limits.

        Args:
            paths: The paths that there are.

        Raises:
            StartupFailed: One is not.
        """
        missing = [name for name in self.settings.route_limits if name.startswith("/") and name not in paths]
        where, cure = "[tool.fissile.gateway.routes]", "Write the whole path of a route that has no parameters."
        faults = [Fault(f"There are limits for {name!r}, where no route is.", where, cure) for name in missing]
        if faults:
            raise StartupFailed(tuple(faults))


def _rates(name: str, limits: RouteLimits) -> tuple[Rate, ...]:
    per_client = (Rate(name, limits.rate_limit),) if limits.rate_limit else ()
    if not limits.rate_limit_address:
        return per_client
    return (*per_client, Rate(f"{name} by address", limits.rate_limit_address, is_of_address=True))
