"""Who asks too often is told so, and when to come again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.storage import SlidingWindowCounterSupport, Storage

from fissile import Identity, StartupFailed
from fissile.testing import ManualClock
from fissile_gateway import ProtectionSettings, RouteLimits
from fissile_gateway._counted import client_key
from fissile_gateway._rates import read_rate
from tests.gateway.auth.issuer import desk, rsa, token, trusting
from tests.gateway.serving import building, client_at, guarded, serving
from tests.gateway.test_problems import is_problem

FIND = "/api/shop/find"


async def statuses(client: httpx.AsyncClient, count: int, path: str = FIND, **headers: str) -> list[int]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return [(await client.get(path, headers=sent)).status_code for _ in range(count)]


@given(
    st.integers(1, 10**6),
    st.sampled_from(["/", " per "]),
    st.none() | st.integers(1, 10**4),
    st.sampled_from(["", " "]),
    st.sampled_from(["second", "minute", "hour", "day"]),
    st.sampled_from(["", "s"]),
)
def test_a_limit_means_in_memory_what_it_means_in_a_shared_store(
    amount: int, word: str, several: int | None, space: str, unit: str, plural: str
) -> None:
    text = f"{amount}{word}{'' if several is None else f'{several}{space}'}{unit}{plural}"
    item = parse(text)
    assert read_rate(text) == (item.amount, item.get_expiry())


@pytest.mark.parametrize(
    "text", ["", "60", "60/fortnight", "0/minute", "-1/minute", "60/0 minutes", "60/minute;1/second", "60 minute"]
)
def test_what_is_no_limit_is_not_read_as_one(text: str) -> None:
    assert read_rate(text) is None


async def test_one_request_too_many_is_a_429_that_says_when_to_come_again() -> None:
    clock = ManualClock()
    async with guarded(clock, rate_limit="3/minute") as here:
        assert await statuses(here.client, 3) == [200, 200, 200]
        answer = await here.client.get(FIND)
        is_problem(answer, 429, "too-many-requests")
        wait_s = int(answer.headers["retry-after"])
        clock.advance(wait_s - 1)
        assert await statuses(here.client, 1) == [429]
        clock.advance(1)
        assert await statuses(here.client, 2) == [200, 429]
        assert here.gateway.protection.statistics().limited == 3


async def test_every_answer_tells_where_the_client_stands() -> None:
    async with guarded(ManualClock(), rate_limit="3/minute") as here:
        answers = [await here.client.get(FIND) for _ in range(4)]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"client";q=3;w=60'}
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers] == [
        '"client";r=2',
        '"client";r=1',
        '"client";r=0',
        '"client";r=0',
    ]


async def test_the_rate_is_kept_over_the_border_of_two_minutes() -> None:
    clock = ManualClock()
    async with guarded(clock, rate_limit="10/minute") as here:
        clock.advance(59)
        assert await statuses(here.client, 10) == [200] * 10
        clock.advance(2)
        assert await statuses(here.client, 1) == [429]
        clock.advance(29)
        assert (await statuses(here.client, 10)).count(200) == 5


async def test_each_address_is_counted_by_itself_and_an_ipv6_network_as_one() -> None:
    async with guarded(ManualClock(), rate_limit="1/minute") as here:
        for address, expected in (
            ("192.0.2.1", 200),
            ("192.0.2.2", 200),
            ("192.0.2.1", 429),
            ("2001:db8::1", 200),
            ("2001:db8::ffff:1", 429),
            ("2001:db8:0:1::1", 200),
            ("::ffff:192.0.2.2", 429),
        ):
            async with client_at(here.gateway, address) as client:
                assert await statuses(client, 1) == [expected], address


async def test_who_has_an_identity_is_counted_by_it_wherever_he_is() -> None:
    here: Any = SimpleNamespace(identity=Identity("ann"), network="192.0.2.1")
    there: Any = SimpleNamespace(identity=Identity("ann"), network="192.0.2.2")
    assert client_key(here) == client_key(there)
    others = [
        Identity("bob"),
        Identity("ann", kind="api-key"),
        Identity("ann", tenant="acme"),
        Identity("", kind="anonymous"),
        None,
    ]
    keys = {client_key(here), *(client_key(SimpleNamespace(identity=one, network="ann")) for one in others)}  # type: ignore[arg-type]
    assert len(keys) == 5  # who is anonymous is told by the address, whether or not the gateway looks at credentials


async def test_a_route_and_a_module_can_have_limits_of_their_own() -> None:
    limits = {"shop.find": RouteLimits(rate_limit="1/minute"), "shop": RouteLimits(rate_limit="3/minute")}
    async with guarded(ManualClock(), route_limits=limits) as here:
        assert await statuses(here.client, 2) == [200, 429]
        other = "/api/shop/get-order?order_id=o1"
        assert await statuses(here.client, 3, other) == [200, 200, 429]


async def test_a_limit_for_a_route_that_does_not_exist_keeps_the_gateway_from_starting() -> None:
    with pytest.raises(StartupFailed, match=r"'shop.fnid'.*shop.find"):
        async with guarded(route_limits={"shop.fnid": RouteLimits(timeout_s=1)}):
            pass


async def test_probes_are_never_refused() -> None:
    async with guarded(ManualClock(), rate_limit="1/minute", rate_limit_address="1/minute") as here:
        await statuses(here.client, 3)
        assert await statuses(here.client, 5, "/livez") == [200] * 5
        assert await statuses(here.client, 5, "/readyz") == [200] * 5


async def test_what_is_remembered_of_addresses_is_bounded() -> None:
    async with guarded(ManualClock(), rate_limit="1/minute", rate_limit_keys=100) as here:
        for number in range(1000):
            async with client_at(here.gateway, f"10.0.{number // 250}.{number % 250}") as client:
                assert await statuses(client, 1) == [200]
        assert here.gateway.protection.statistics().keys == 100


# --- guessing --------------------------------------------------------------------------------------------------------


async def test_ten_thousand_guesses_are_cut_off_and_nobody_else_is() -> None:
    clock = ManualClock()
    async with building(protection=ProtectionSettings(rate_limit_failures="20/minute"), clock=clock) as (gateway, _):
        protection = gateway.protection
        # What authentication does with a wrong password, and with a credential that proves nothing.
        answers = [protection.on_failed_authentication("192.0.2.1") for _ in range(10_000)]
        assert answers[:20] == [None] * 20
        assert all(problem is not None and problem.status == 429 for problem in answers[20:])
        assert protection.on_failed_authentication("192.0.2.2") is None
        async with client_at(gateway, "192.0.2.1") as neighbour:
            assert await statuses(neighbour, 1) == [200]  # nobody else of the address is touched
        refusal = answers[-1]
        assert refusal is not None
        clock.advance(int(dict(refusal.headers)["retry-after"]))
        assert protection.on_failed_authentication("192.0.2.1") is None


async def test_a_guesser_of_tokens_is_told_to_wait_and_who_has_one_is_not(tmp_path: Path) -> None:
    async with desk(failures="20/minute", **trusting(tmp_path, rsa())) as here:
        guesses = [(await here.get(credential=f"guess-{number}")).status_code for number in range(100)]
        assert guesses == [401] * 20 + [429] * 80
        assert (await here.get(credential=token(here.now))).status_code == 200
        answer = await here.get(credential="another-guess")
        assert answer.status_code == 429
        here.clock.advance(int(answer.headers["retry-after"]))
        assert (await here.get(credential="another-guess")).status_code == 401


async def test_an_address_that_is_locked_out_is_refused_by_the_server_and_keeps_its_connection() -> None:
    async with serving(protection=ProtectionSettings(rate_limit_address="5/day")) as running:
        answers = [await running.client.get(FIND) for _ in range(30)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 25
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers[5:])
        for answer in answers[5:]:
            assert answer.json()["type"] == "/problems/too-many-requests"
        assert (await running.client.get("/livez")).status_code == 200


# --- a store that replicas share -------------------------------------------------------------------------------------


class SharedStore(Storage, SlidingWindowCounterSupport):
    """A store of the library's kind, of which a test holds the other end."""

    STORAGE_SCHEME = ["shared"]  # noqa: RUF012 -- as the library declares it
    counts: ClassVar[dict[str, int]] = {}
    is_away: ClassVar[bool] = False
    held: ClassVar[threading.Event | None] = None

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        if self.held is not None:
            self.held.wait(10)
        if self.is_away:
            raise ConnectionError("redis://user:password@store is away")
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key] <= limit

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return 0, 0.0, self.counts.get(key, 0), float(expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None: ...

    @property
    def base_exceptions(self) -> type[Exception]:
        return ConnectionError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    def get(self, key: str) -> int:
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    def check(self) -> bool:
        raise NotImplementedError

    def reset(self) -> int | None:
        raise NotImplementedError

    def clear(self, key: str) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _fresh_store() -> None:
    SharedStore.counts, SharedStore.is_away, SharedStore.held = {}, False, None


async def test_replicas_that_share_a_store_count_together() -> None:
    shared: dict[str, Any] = {"rate_limit": "4/minute", "rate_limit_storage": "shared://"}
    async with guarded(ManualClock(), **shared) as one, guarded(ManualClock(), **shared) as other:
        assert await statuses(one.client, 2) + await statuses(other.client, 3) == [200, 200, 200, 200, 429]


async def test_where_the_store_is_away_each_replica_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(ManualClock(), rate_limit="2/minute", rate_limit_storage="shared://") as here:
        SharedStore.is_away = True
        assert await statuses(here.client, 3) == [200, 200, 429]
    said = [record.getMessage() for record in caplog.records if "store of rate limits" in record.getMessage()]
    assert len(said) == 1
    assert "password" not in said[0]


async def test_a_store_that_is_slow_holds_up_no_other_request() -> None:
    SharedStore.held = threading.Event()
    async with (
        guarded(rate_limit="9/minute", rate_limit_storage="shared://") as here,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(here.client.get, FIND)
        assert await statuses(here.client, 3, "/livez") == [200] * 3
        SharedStore.held.set()


async def test_a_store_that_cannot_be_used_keeps_the_gateway_from_starting_and_its_password_is_not_told() -> None:
    with pytest.raises(StartupFailed, match="FISSILE_RATE_LIMIT_STORAGE") as failed:
        async with guarded(rate_limit_storage="nowhere://user:hunter2@host"):
            pass
    assert "hunter2" not in str(failed.value)
    assert "hunter2" not in repr(ProtectionSettings(rate_limit_storage="redis://:hunter2@host"))
