"""Rule 3: a reply, a declared error by value, or `HandlerFailed` for anything else."""

import logging
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from attrs import field, frozen

from fissile import (
    App,
    Bus,
    CallError,
    Command,
    Contract,
    DeadlineExceeded,
    DeclaredError,
    HandlerFailed,
    InvalidMessage,
    Module,
    Overloaded,
    Query,
    Unavailable,
    UnknownMessage,
)
from tests.runtime.helpers import app_of


@frozen
class OutOfStock(DeclaredError):
    sku: str
    left: int = 0


@frozen(kw_only=True)
class Sold(DeclaredError):
    day: int = 0
    sku: str
    tags: tuple[str, ...] = field(factory=tuple)


@frozen
class NotNamed(DeclaredError):
    text: str


@frozen
class Take(Command[int], raises=(OutOfStock, Sold)):
    sku: str


@frozen
class Buy(Command[int]):
    sku: str


@frozen
class Elsewhere(Query[int]):
    pass


stock_contract = Contract("stock", messages=[Take, OutOfStock, Sold, NotNamed])
shop_contract = Contract("shop", messages=[Buy])


def stock(fail: Callable[[], BaseException]) -> Module:
    module = Module(stock_contract)

    @module.command(Take, idempotent=True)
    async def take(command: Take) -> int:
        raise fail()

    return module


async def outcome(fail: Callable[[], BaseException]) -> BaseException:
    async with app_of(stock(fail)) as app:
        with pytest.raises(BaseException) as raised:
            await app.bus.execute(Take("a"))
    return raised.value


async def test_a_declared_error_comes_back_with_its_fields() -> None:
    error = await outcome(lambda: OutOfStock("a", 3))
    assert error == OutOfStock("a", 3)
    assert error != OutOfStock("a", 4)
    assert isinstance(error, OutOfStock)
    assert hash(error) == hash(OutOfStock("a", 3))


async def test_a_declared_error_with_keywords_and_defaults_comes_back_with_its_fields() -> None:
    assert await outcome(lambda: Sold(sku="a", tags=("x",))) == Sold(sku="a", tags=("x",))


async def test_the_text_of_a_declared_error_that_came_back_can_be_made() -> None:
    error = await outcome(lambda: OutOfStock("a", 3))
    assert str(error) == "OutOfStock(sku='a', left=3)"


async def test_a_declared_error_that_the_message_does_not_name_is_a_failure() -> None:
    error = await outcome(lambda: NotNamed("x"))
    assert isinstance(error, HandlerFailed)
    assert error.error_type == "NotNamed"


async def test_any_other_error_is_a_failure_with_type_message_and_id() -> None:
    error = await outcome(lambda: ValueError("no such shelf"))
    assert isinstance(error, HandlerFailed)
    assert (error.message_name, error.error_type, error.error_text) == ("stock.take", "ValueError", "no such shelf")
    assert error.message_id
    assert error.message_id in str(error)
    assert error.happened is True


async def test_a_failure_has_neither_cause_nor_context_nor_the_frames_of_the_handler() -> None:
    error = await outcome(lambda: ValueError("no such shelf"))
    assert error.__cause__ is None
    assert error.__context__ is None
    names: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "take" not in names


async def test_a_declared_error_has_neither_cause_nor_context() -> None:
    def fail() -> BaseException:
        error = OutOfStock("a")
        error.__cause__ = ValueError("secret")
        return error

    error = await outcome(fail)
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_the_traceback_of_a_failure_is_in_the_log_under_its_id(caplog: pytest.LogCaptureFixture) -> None:
    error = await outcome(lambda: ValueError("no such shelf"))
    assert isinstance(error, HandlerFailed)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.message_id == error.message_id  # type: ignore[attr-defined]
    assert record.fissile_module == "stock"  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_declared_error_is_not_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    await outcome(lambda: OutOfStock("a"))
    assert [record for record in caplog.records if record.name == "fissile.handler"] == []


async def test_a_group_whose_only_leaf_is_a_declared_error_is_that_error() -> None:
    error = await outcome(lambda: ExceptionGroup("", [ExceptionGroup("", [OutOfStock("a", 1)])]))
    assert error == OutOfStock("a", 1)


async def test_a_group_of_two_errors_is_a_failure() -> None:
    error = await outcome(lambda: ExceptionGroup("both", [OutOfStock("a"), OutOfStock("b")]))
    assert isinstance(error, HandlerFailed)
    assert error.error_type == "ExceptionGroup"


async def test_a_declared_error_out_of_a_task_group_is_that_error() -> None:
    module = Module(stock_contract)

    @module.command(Take, idempotent=True)
    async def take(command: Take) -> int:
        async def child() -> None:
            await anyio.lowlevel.checkpoint()
            raise OutOfStock(command.sku, 7)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        return 1

    async with app_of(module) as app:
        with pytest.raises(OutOfStock) as raised:
            await app.bus.execute(Take("a"))
    assert raised.value == OutOfStock("a", 7)


async def test_an_error_without_a_text_is_a_failure_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    error = await outcome(Mute)
    assert isinstance(error, HandlerFailed)
    assert error.error_type == "Mute"


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), StopAsyncIteration()])
async def test_a_handler_cannot_end_the_process_or_an_iteration_of_its_caller(error: BaseException) -> None:
    assert isinstance(await outcome(lambda: error), HandlerFailed)


async def test_a_ctrl_c_in_a_handler_goes_on_to_the_caller() -> None:
    async with app_of(stock(KeyboardInterrupt)) as app:
        call = app.bus.execute(Take("a"))
        with pytest.raises(KeyboardInterrupt):
            await call


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_a_stray_cancellation_is_a_failure() -> None:
    import asyncio

    module = Module(stock_contract)

    @module.command(Take, idempotent=True)
    async def take(command: Take) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async with app_of(module) as app:
        with pytest.raises(HandlerFailed) as raised:
            await app.bus.execute(Take("a"))
    assert raised.value.error_type == "CancelledError"


async def test_the_failure_of_a_callee_is_a_failure_of_its_caller_unless_caught() -> None:
    shop = Module(shop_contract)

    @shop.command(Buy, idempotent=True)
    async def buy(command: Buy, bus: Bus) -> int:
        return await bus.execute(Take(command.sku))

    async with app_of(shop, stock(lambda: OutOfStock("a"))) as app:
        with pytest.raises(HandlerFailed) as raised:
            await app.bus.execute(Buy("a"))
    assert (raised.value.message_name, raised.value.error_type) == ("shop.buy", "OutOfStock")


async def test_a_message_of_a_module_that_no_process_hosts_is_unavailable_and_did_not_happen() -> None:
    async with App([stock(RuntimeError)], contracts=[Contract("far", messages=[Elsewhere])]) as app:
        with pytest.raises(Unavailable, match=r"far\.elsewhere was not called.*'far'") as raised:
            await app.bus.ask(Elsewhere())
    assert raised.value.happened is False


async def test_a_message_that_nobody_declares_is_unknown() -> None:
    async with app_of(stock(RuntimeError)) as app:
        with pytest.raises(UnknownMessage, match="No module of the application handles"):
            await app.bus.ask(Elsewhere())


async def test_a_command_that_is_asked_is_told_to_be_executed() -> None:
    async with app_of(stock(RuntimeError)) as app:
        with pytest.raises(UnknownMessage, match=r"is a command; use execute\(\) or send\(\)"):
            await app.bus.ask(Take("a"))  # type: ignore[arg-type]


def test_errors_say_whether_the_call_happened() -> None:
    assert [kind.happened for kind in (InvalidMessage, Overloaded, Unavailable)] == [False] * 3
    assert DeadlineExceeded.happened is None
    assert HandlerFailed.happened is True
    assert all(issubclass(kind, CallError) for kind in (InvalidMessage, Overloaded, Unavailable, DeadlineExceeded))
