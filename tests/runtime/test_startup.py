"""The check at start: every fault has its text, its place and its cure, and all of them are reported together."""

# Without `from __future__ import annotations`: the faulty classes below are local to their tests.

import enum
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import attrs
import pytest
from attrs import define, frozen

from fissile import (
    App,
    Bus,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Event,
    Fault,
    Lifespan,
    Module,
    ModuleSettings,
    Queries,
    Query,
    StartupFailed,
    Topic,
)

T = TypeVar("T")
HERE = "tests/runtime/test_startup.py:"


@frozen
class Place(Command[str]):
    sku: str


@frozen
class Look(Query[str]):
    pass


@frozen
class Placed(Event):
    sku: str


@frozen
class Cancelled(Event):
    sku: str


def topic(*events: type[Event], name: str = "shop.placed") -> Topic[Any]:
    return Topic(name, *(events or (Placed,)), key=lambda event: event.sku)


def faults_of(*modules: Module) -> list[Fault]:
    return list(App(modules).check())


def fault_of(*modules: Module) -> Fault:
    faults = faults_of(*modules)
    assert len(faults) == 1, "\n".join(map(str, faults))
    (fault,) = faults
    assert fault.where.startswith(HERE), fault.where
    assert fault.cure.endswith((".", ")", "].")), fault.cure
    return fault


def declares(*messages: type, topics: tuple[Topic[Any], ...] = (), name: str = "shop") -> Module:
    """A module of a contract, whose messages all have good handlers."""
    module = Module(Contract(name, messages=messages, topics=topics))
    for message in messages:
        if issubclass(message, Command):

            async def handle(command: Any) -> Any: ...

            handle.__annotations__ = {"command": message, "return": _reply(message)}
            module.command(message, idempotent=True)(handle)
        elif issubclass(message, Query):

            async def answer(query: Any) -> Any: ...

            answer.__annotations__ = {"query": message, "return": _reply(message)}
            module.query(message)(answer)
    return module


def _reply(message: type) -> Any:
    from fissile._messages import reply_type

    try:
        return reply_type(message)
    except (TypeError, NameError):
        return None


def expect(fault: Fault, what: str, cure: str) -> None:
    assert (fault.what, fault.cure) == (what, cure)


# --- contracts -------------------------------------------------------------------------------------------------------


def test_a_good_application_has_no_faults() -> None:
    assert faults_of(declares(Place, Look, Placed, topics=(topic(),))) == []


def test_two_contracts_of_one_name() -> None:
    fault = faults_of(declares(Place), declares(Look))[0]
    assert fault.what.startswith("Two contracts are called 'shop'; the other is in tests/runtime/test_startup.py:")
    assert fault.cure == "Rename one."


def test_a_contract_whose_name_is_not_in_kebab_case() -> None:
    expect(
        fault_of(declares(Place, name="ShopOne")),
        "The contract's name 'ShopOne' is not in kebab-case.",
        "Write it like 'code-executor'.",
    )


def test_a_message_in_two_contracts() -> None:
    assert any(
        fault.what == "Place is in two contracts, 'one' and 'two'." and fault.cure == "Keep it in one."
        for fault in faults_of(declares(Place, name="one"), declares(Place, name="two"))
    )


def test_two_messages_of_one_name_on_the_wire() -> None:
    @frozen
    class HTTPError(Query[str]):
        pass

    @frozen
    class HttpError(Query[str]):
        pass

    expect(
        fault_of(declares(HTTPError, HttpError)),
        "HTTPError and HttpError are both called 'http-error' on the wire.",
        "Rename one.",
    )


def test_an_event_that_no_topic_carries() -> None:
    expect(
        fault_of(declares(Placed)),
        "No topic carries the event Placed, so it could not be published.",
        'Add it to a topic: Topic("shop.placed", Placed, key=...).',
    )


@pytest.mark.parametrize("name", ["placed", "other.placed", "shop.Placed"])
def test_a_topic_that_is_not_called_after_its_contract(name: str) -> None:
    expect(
        fault_of(declares(Placed, topics=(topic(name=name),))),
        f"The topic {name!r} is not called after its contract.",
        "Call it 'shop.<name>'.",
    )


@pytest.mark.parametrize("name", ["requests", "dead-letters"])
def test_a_topic_whose_name_the_runtime_has_taken(name: str) -> None:
    expect(
        fault_of(declares(Placed, topics=(topic(name=f"shop.{name}"),))),
        f"The name 'shop.{name}' is taken by the runtime.",
        "Rename the topic.",
    )


@pytest.mark.parametrize("name", ["Lost", "Reset", "End", "Error", "Open"])
def test_an_event_that_streams_could_not_tell_from_their_own(name: str) -> None:
    event: Any = frozen(type(name, (Event,), {"__annotations__": {"sku": str}, "__module__": __name__}))
    private: Topic[Any] = Topic("shop.placed", event, key=lambda event: event.sku, public=False)
    assert not faults_of(Module(Contract("shop", messages=(event,), topics=(private,))))
    others = topic(Cancelled, name="cancelled")
    contract = Contract("shop", messages=(event, Cancelled), topics=(topic(event), others))
    about, other = sorted(faults_of(Module(contract)), key=lambda fault: "called after" in fault.what)
    assert f"{name} would be `event: {name.lower()}` in the gateway's stream of shop.placed" in about.what
    assert about.cure.startswith("Rename it")
    assert "cancelled" in other.what  # and what else is wrong is told with it


def test_two_topics_of_one_name() -> None:
    fault = fault_of(declares(Placed, Cancelled, topics=(topic(), topic(Cancelled))))
    assert fault.what.startswith("Two topics are called 'shop.placed'; the other is in tests/runtime/test_startup.py:")
    assert fault.cure == "Rename one."


def test_a_topic_without_events() -> None:
    empty: Topic[Any] = Topic("shop.nothing", key=lambda event: "")
    expect(
        fault_of(declares(topics=(empty,))),
        "The topic shop.nothing carries no events.",
        "Name the classes of its events.",
    )


def test_a_topic_that_names_what_is_no_event() -> None:
    fault = fault_of(declares(topics=(topic(Place),)))  # type: ignore[arg-type]
    assert fault.what.startswith("The topic shop.placed names <class")
    assert fault.what.endswith("which is no event.")
    assert fault.cure == "Derive it from Event."


def test_a_topic_with_an_event_of_another_contract() -> None:
    faults = faults_of(
        declares(topics=(topic(),)), declares(Placed, topics=(topic(name="other.placed"),), name="other")
    )
    assert [(fault.what, fault.cure) for fault in faults] == [
        ("The topic shop.placed carries Placed, which is not of its contract.", "Define both in one file.")
    ]


def test_an_event_in_two_topics() -> None:
    expect(
        fault_of(declares(Placed, topics=(topic(), topic(name="shop.again")))),
        "Placed is in two topics, shop.placed and shop.again.",
        "Keep it in one; derive a second event where both are needed.",
    )


def test_a_key_that_is_no_field() -> None:
    @frozen
    class Keyed(Command[str], key="shelf"):
        sku: str

    expect(
        fault_of(declares(Keyed)),
        "Keyed has no field 'shelf', which is its key.",
        "Name one of its fields, or pass a function.",
    )


def test_a_message_that_raises_what_is_no_declared_error() -> None:
    @frozen
    class Risky(Query[str], raises=(ValueError,)):  # type: ignore[arg-type]
        pass

    expect(
        fault_of(declares(Risky)),
        "Risky names <class 'ValueError'> in raises, which is no declared error.",
        "Derive it from DeclaredError and put @frozen above it.",
    )


def test_a_message_without_a_reply_type() -> None:
    @frozen
    class Bare(Query):  # type: ignore[type-arg]
        pass

    fault = fault_of(declares(Bare))
    assert fault.what.startswith("The reply type of Bare cannot be read (Bare names no reply type")
    assert fault.cure == "Write Command[X] or Query[X]."


# --- types -----------------------------------------------------------------------------------------------------------


@frozen
class Left:
    pass


@frozen
class Right:
    pass


@define
class Changeable:
    pass


@frozen
class Failing(DeclaredError):
    pass


@frozen
class Box(Generic[T]):
    pass


class Plain:
    pass


class Fraction(enum.Enum):
    HALF = 0.5


TABLE = "Use a type of the table in docs/contracts.md."
REFUSED: list[tuple[Any, str, str]] = [
    (list[int], "the type list is mutable.", "Use tuple[X, ...]."),
    (dict[str, int], "the type dict is mutable.", "Use Mapping[str, X]."),
    (set[int], "the type set is mutable.", "Use frozenset[X]."),
    (bytearray, "the type bytearray is mutable.", "Use bytes."),
    (tuple[list[int], ...], "the type list is mutable.", "Use tuple[X, ...]."),
    (Mapping[str, list[int]], "the type list is mutable.", "Use tuple[X, ...]."),
    (Mapping[int, str], "a mapping whose keys are not strings.", "Use Mapping[str, X]."),
    (
        Left | Right,
        "a union of Left and Right cannot be told apart on the wire.",
        "Use one class with optional fields.",
    ),
    (Literal[True], "a literal of other values than strings and integers.", "Use strings or integers."),
    (Fraction, "the enum Fraction has values that are neither strings nor integers.", "Use strings."),
    (ValueError, "ValueError is an exception.", "Use a frozen attrs class with the same fields."),
    (Changeable, "Changeable can be changed after it was made.", "Use @frozen instead of @define."),
    (Annotated[list[int], "x"], "the type list is mutable.", "Use tuple[X, ...]."),
    (Any, "the type Any cannot be part of a contract.", TABLE),
    (object, "the type object cannot be part of a contract.", TABLE),
    (complex, "the type complex cannot be part of a contract.", TABLE),
    (Plain, "the type Plain cannot be part of a contract.", TABLE),
    (tuple, "the type tuple cannot be part of a contract.", TABLE),
    (Callable[[], None], "the type Callable cannot be part of a contract.", TABLE),
]


@pytest.mark.parametrize(("annotation", "what", "cure"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_type_outside_of_the_table_is_refused_with_its_cure_wherever_it_stands(
    annotation: Any, what: str, cure: str
) -> None:
    faulty = attrs.make_class("Faulty", {"field": attrs.field(type=annotation)}, bases=(Query[str],), frozen=True)
    faulty.__module__ = __name__
    asked = next(iter(faults_of(declares(faulty))))
    assert asked.what.lower() == f"faulty.field: {what}".lower()
    assert asked.cure == cure


@pytest.mark.parametrize(("annotation", "what", "cure"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_reply_outside_of_the_table_is_refused_with_its_cure(annotation: Any, what: str, cure: str) -> None:
    class Base(Query[annotation]):
        pass

    replying = frozen(Base)
    fault = next(iter(faults_of(declares(replying))))
    assert fault.what.replace("Changeable: ", "").lower().endswith(what.lower())
    assert fault.what.startswith("The reply of Base: ")
    assert fault.cure == cure


def test_a_declared_error_inside_of_a_message_is_refused() -> None:
    @frozen
    class Told(Query[str]):
        error: Failing

    fault = fault_of(declares(Told, Failing))
    assert fault.what == "Told.error: Failing is an exception."


def test_a_generic_class_is_refused() -> None:
    @frozen
    class Boxed(Query[str]):
        box: Box  # type: ignore[type-arg]

    assert fault_of(declares(Boxed)).what == "Boxed.box: Box is generic."


def test_a_message_that_is_no_attrs_class_is_refused() -> None:
    class Naked(Query[str]):
        pass

    expect(fault_of(declares(Naked)), "Naked: Naked is no attrs class.", "Put @frozen (from attrs) above it.")


def test_a_message_that_can_be_changed_is_refused() -> None:
    @define
    class Loose(Query[str]):
        pass

    expect(
        fault_of(declares(Loose)), "Loose: Loose can be changed after it was made.", "Use @frozen instead of @define."
    )


def test_a_private_field_is_refused() -> None:
    @frozen
    class Secretive(Query[str]):
        _hidden: int = 0

    expect(
        fault_of(declares(Secretive)),
        "Secretive._hidden: a private field is not sent.",
        "Rename it without the underscore.",
    )


def test_a_field_without_init_is_refused() -> None:
    @frozen
    class Derived(Query[str]):
        twice: int = attrs.field(init=False, default=2)

    expect(
        fault_of(declares(Derived)),
        "Derived.twice: a field with init=False could be set from the wire.",
        "Make it a property.",
    )


def test_a_field_with_an_alias_is_refused() -> None:
    @frozen
    class Aliased(Query[str]):
        name: str = attrs.field(alias="label")

    expect(
        fault_of(declares(Aliased)),
        "Aliased.name: a field with an alias is read under another name than it is sent.",
        "Remove the alias.",
    )


@pytest.mark.parametrize(
    "annotation", [str | datetime, str | UUID, tuple[int, ...] | frozenset[int], Left | Mapping[str, int]]
)
def test_a_union_that_cannot_be_told_apart_on_the_wire_is_a_fault(annotation: Any) -> None:
    faulty = attrs.make_class("Faulty", {"field": attrs.field(type=annotation)}, bases=(Query[str],), frozen=True)
    faulty.__module__ = __name__
    fault = next(iter(faults_of(declares(faulty))))
    assert fault.what.startswith("Faulty: ")
    assert "cannot be told apart on the wire: type unions may not contain more than one" in fault.what
    assert fault.cure == "Use one of them, or one class with optional fields."

    class Base(Query[annotation]):
        pass

    reply = next(iter(faults_of(declares(frozen(Base)))))
    assert reply.what.startswith("The reply of Base: ")


def test_a_union_in_a_declared_error_that_cannot_be_told_apart_is_a_fault() -> None:
    @frozen
    class Torn(DeclaredError):
        field: str | datetime

    @frozen
    class Risky(Query[str], raises=(Torn,)):
        pass

    assert fault_of(declares(Torn, Risky)).what.startswith("Torn: ")


# --- handlers --------------------------------------------------------------------------------------------------------


def bare(*messages: type, name: str = "shop", topics: tuple[Topic[Any], ...] = ()) -> Module:
    return Module(Contract(name, messages=messages, topics=topics))


def test_a_message_without_a_handler() -> None:
    expect(
        fault_of(bare(Place)),
        "The command Place has no handler.",
        "Write one in the module 'shop': @module.command(Place).",
    )
    expect(
        fault_of(bare(Look)),
        "The query Look has no handler.",
        "Write one in the module 'shop': @module.query(Look).",
    )


def test_a_message_with_two_handlers() -> None:
    module = bare(Look)

    @module.query(Look)
    async def one(query: Look) -> str:
        return ""

    @module.query(Look)
    async def two(query: Look) -> str:
        return ""

    fault = fault_of(module)
    assert fault.what.startswith("Look has two handlers; the other is in tests/runtime/test_startup.py:")
    assert fault.cure == "Remove one."


def test_a_handler_of_another_modules_message() -> None:
    module = declares(Place)

    @module.query(Look)
    async def look(query: Look) -> str:
        return ""

    expect(
        fault_of(module, declares(Look, name="viewer")),
        "shop handles Look, which is of the contract 'viewer'.",
        "Handle only messages of the module's own contract.",
    )
    expect(
        fault_of(module),
        "shop handles Look, which is of no contract of the application.",
        "Handle only messages of the module's own contract.",
    )


def test_a_handler_that_takes_another_message() -> None:
    module = bare(Look)

    async def look(query: Place) -> str:
        return ""

    module.query(Look)(look)  # type: ignore[arg-type]
    fault = fault_of(module)
    assert fault.what.endswith("look handles Look and takes Place.")
    assert fault.cure == "Make the message its first parameter."


def test_a_handler_that_returns_another_type() -> None:
    module = bare(Look)

    async def look(query: Look) -> int:
        return 1

    module.query(Look)(look)  # type: ignore[arg-type]
    fault = fault_of(module)
    assert fault.what.endswith("look returns int; the reply of Look is str.")
    assert fault.cure == "Make them the same."


def test_a_handler_that_does_not_say_what_it_returns() -> None:
    module = bare(Look)

    async def look(query: Look):  # type: ignore[no-untyped-def]
        return ""

    module.query(Look)(look)
    fault = fault_of(module)
    assert fault.what.endswith("look does not say what it returns.")
    assert fault.cure == "Write -> str."


def test_a_subscriber_that_does_not_say_what_it_returns() -> None:
    placed = topic()

    async def on_it(event: Placed):  # type: ignore[no-untyped-def]
        pass

    fault = fault_of(declares(Placed, topics=(placed,)), subscribed(on_it, placed))
    assert fault.what.endswith("on_it does not say what it returns.")
    assert fault.cure == "Write -> None."


def test_a_handler_may_return_less_than_the_reply_allows() -> None:
    @frozen
    class Maybe(Query[str | None]):
        pass

    module = bare(Maybe)

    @module.query(Maybe)
    async def maybe(query: Maybe) -> str:
        return ""

    assert faults_of(module) == []


def test_a_handler_without_a_message() -> None:
    module = bare(Look)

    async def look() -> str:
        return ""

    module.query(Look)(look)  # type: ignore[arg-type]
    fault = fault_of(module)
    assert fault.what.endswith("look takes no message.")
    assert fault.cure == "Make the message its first parameter."


def test_a_handler_with_a_parameter_without_a_type() -> None:
    module = bare(Look)

    async def look(query: Look, store) -> str:  # type: ignore[no-untyped-def]
        return ""

    module.query(Look)(look)
    fault = fault_of(module)
    assert "The parameter store of" in fault.what
    assert fault.cure == "Annotate it."


def test_a_handler_with_starred_parameters() -> None:
    module = bare(Look)

    async def look(query: Look, *more: str) -> str:
        return ""

    module.query(Look)(look)
    fault = fault_of(module)
    assert fault.what.endswith("look takes *more.")
    assert fault.cure == "Name its parameters; they are found by type."


def test_a_handler_whose_annotations_cannot_be_read() -> None:
    module = bare(Look)

    async def look(query: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""

    module.query(Look)(look)
    fault = fault_of(module)
    assert "look cannot be read (name 'Nowhere' is not defined)" in fault.what
    assert fault.cure == "Import what they name at the level of the file."


def test_a_parameter_that_nobody_provides() -> None:
    module = bare(Look)

    @module.query(Look)
    async def look(query: Look, plain: Plain) -> str:
        return ""

    fault = fault_of(module)
    assert fault.what.endswith("look takes plain: Plain, which nobody gives to a query's handler.")
    assert fault.cure == "Declare one: @module.resource above an async context manager that yields Plain."


def test_a_query_handler_that_takes_a_bus() -> None:
    module = bare(Look)

    @module.query(Look)
    async def look(query: Look, bus: Bus) -> str:
        return ""

    fault = fault_of(module)
    assert fault.what.endswith("look takes bus: Bus, which nobody gives to a query's handler.")
    assert fault.cure == "Take Queries instead: a query has no effects."


def test_a_command_handler_that_takes_a_lifespan() -> None:
    module = bare(Place)

    @module.command(Place, idempotent=True)
    async def place(command: Place, lifespan: Lifespan) -> str:
        return ""

    assert fault_of(module).cure == "Remove the parameter."


def test_a_sync_handler_that_takes_a_bus() -> None:
    module = bare(Look)

    @module.query(Look)
    def look(query: Look, queries: Queries) -> str:
        return ""

    fault = fault_of(module)
    assert fault.what.endswith("look is a sync function and takes a bus.")
    assert fault.cure == "Write async def; a thread cannot await."


def test_a_sync_handler_that_takes_its_caller_is_fine() -> None:
    module = bare(Look)

    @module.query(Look)
    def look(query: Look, caller: Caller) -> str:
        return ""

    assert faults_of(module) == []


# --- subscriptions ---------------------------------------------------------------------------------------------------


def subscribed(function: Any, placed: Topic[Any], **more: Any) -> Module:
    module = bare(name="reader")
    module.subscribe(placed, **more)(function)
    return module


async def on_placed(event: Placed) -> None: ...


def test_a_subscription_of_a_topic_that_no_contract_declares() -> None:
    fault = fault_of(subscribed(on_placed, topic()))
    assert fault.what == "on_placed subscribes to the topic shop.placed, which no contract of the application declares."
    assert fault.cure.startswith("List the module that declares it (in tests/runtime/test_startup.py:")


def test_a_subscription_of_an_event_that_the_topic_does_not_carry() -> None:
    placed = topic()

    async def on_cancelled(event: Cancelled) -> None: ...

    faults = faults_of(declares(Placed, topics=(placed,)), subscribed(on_cancelled, placed, event=Cancelled))
    assert any(
        fault.what.endswith("on_cancelled subscribes to Cancelled, which shop.placed does not carry.")
        for fault in faults
    )


def test_a_subscriber_that_would_get_more_than_it_takes() -> None:
    both = topic(Placed, Cancelled)
    fault = fault_of(declares(Placed, Cancelled, topics=(both,)), subscribed(on_placed, both))
    assert fault.what == "on_placed takes Placed and would get Cancelled too."
    assert fault.cure == "Widen the parameter, or name the one event: @module.subscribe(topic, TheEvent)."


def test_a_subscriber_that_returns_a_value() -> None:
    placed = topic()

    async def on_it(event: Placed) -> int:
        return 1

    fault = fault_of(declares(Placed, topics=(placed,)), subscribed(on_it, placed))
    assert fault.what.endswith("on_it returns a value, and an event has no reply.")
    assert fault.cure == "Return None."


def test_a_module_that_begins_to_read_one_topic_at_two_places() -> None:
    placed = topic()
    module = subscribed(on_placed, placed)
    module.subscribe(placed, start="latest")(on_placed)
    fault = fault_of(declares(Placed, topics=(placed,)), module)
    assert fault.what == "reader subscribes to shop.placed from the earliest and from the latest."
    assert fault.cure == "Let both begin at the same place: a module reads a topic once."


# --- resources, workers, settings ------------------------------------------------------------------------------------


class A: ...


class B: ...


def test_a_resource_that_does_not_say_what_it_yields() -> None:
    module = bare()

    @module.resource
    @asynccontextmanager
    async def store():  # type: ignore[no-untyped-def]
        yield A()

    fault = fault_of(module)
    assert fault.what.endswith("store does not say what it yields.")
    assert fault.cure == "Write @asynccontextmanager and -> AsyncGenerator[Store] (from collections.abc)."


def test_two_resources_of_one_type() -> None:
    module = bare()

    @module.resource
    @asynccontextmanager
    async def one() -> AsyncGenerator[A]:
        yield A()

    @module.resource
    @asynccontextmanager
    async def two() -> AsyncIterator[A]:
        yield A()

    fault = fault_of(module)
    assert fault.what.startswith("Two resources yield A; the other is in tests/runtime/test_startup.py:")
    assert fault.cure == "Give one a type of its own."


def test_resources_that_need_each_other_in_a_circle() -> None:
    module = bare()

    @module.resource
    @asynccontextmanager
    async def one(b: B) -> AsyncGenerator[A]:
        yield A()

    @module.resource
    @asynccontextmanager
    async def two(a: A) -> AsyncGenerator[B]:
        yield B()

    expect(fault_of(module), "Resources need each other in a circle: A → B → A.", "Break it.")


def test_a_resource_that_takes_a_bus() -> None:
    module = bare()

    @module.resource
    @asynccontextmanager
    async def one(bus: Bus) -> AsyncGenerator[A]:
        yield A()

    fault = fault_of(module)
    assert fault.what.endswith("one takes bus: Bus, which nobody gives to a resource.")
    assert fault.cure == "Open it without calling other modules; they may not be there yet. A worker may call them."


def test_a_worker_that_is_not_async() -> None:
    module = bare()

    def work() -> None: ...

    module.worker(work)  # type: ignore[type-var]
    fault = fault_of(module)
    assert fault.what.endswith("work is a worker and not async.")
    assert fault.cure == "Write async def."


@frozen
class Needed(ModuleSettings):
    limit: int
    other: str


async def test_missing_settings_are_all_named() -> None:
    module = bare()

    @module.worker
    async def work(needed: Needed) -> None: ...

    faults = faults_of(module)
    assert [(fault.what, fault.where, fault.cure) for fault in faults] == [
        ("FISSILE_SHOP_LIMIT is not set.", f"{__name__}.Needed", "Set it."),
        ("FISSILE_SHOP_OTHER is not set.", f"{__name__}.Needed", "Set it."),
    ]


# --- together --------------------------------------------------------------------------------------------------------


async def test_all_faults_are_reported_together_each_with_place_and_cure() -> None:
    module = bare(Place, Look, Placed, name="Shop")

    async def place(command: Place, plain: Plain) -> int:
        return 1

    module.command(Place)(place)  # type: ignore[arg-type]
    with pytest.raises(StartupFailed) as raised:
        async with App([module]):
            pass
    line = place.__code__.co_firstlineno
    text = str(raised.value)
    assert text.splitlines()[0] == "The application cannot start: 6 faults."
    for part in (
        "The contract's name 'Shop' is not in kebab-case.",
        "No topic carries the event Placed",
        f"{HERE}{line}: The handler of Place does not say how it bears a repeat.",
        "takes plain: Plain, which nobody gives",
        "returns int; the reply of Place is str.",
        "The query Look has no handler.",
    ):
        assert part in text
    assert text.count("Cure: ") == 6


async def test_an_application_with_faults_opens_nothing() -> None:
    opened: list[str] = []
    module = bare(Look)

    @module.resource
    @asynccontextmanager
    async def store() -> AsyncGenerator[A]:
        opened.append("store")
        yield A()

    with pytest.raises(StartupFailed, match="1 fault\\."):
        async with App([module]):
            pass
    assert opened == []


def test_a_check_imports_and_opens_nothing_by_itself() -> None:
    before = set(sys.modules)
    faults_of(bare(Look))
    assert not {name for name in set(sys.modules) - before if name.startswith("fissile.transports")}


# --- placement -------------------------------------------------------------------------------------------------------


def placement_faults(placement: dict[str, tuple[str, ...]], name: str = "split") -> list[tuple[str, str, str]]:
    from fissile._placement import placement_faults, read_placements

    placements = read_placements({"placements": {"split": placement}}, ("a", "b"))
    found = placement_faults(name, placements, ("a", "b"), "pyproject.toml", log_is_shared=True)
    return [(fault.what, fault.where, fault.cure) for fault in found]


WHERE = "pyproject.toml [tool.fissile.placements.split]"


def test_the_placement_monolith_always_exists() -> None:
    assert placement_faults({}, "monolith") == []


def test_a_placement_that_does_not_exist() -> None:
    assert placement_faults({}, "nowhere") == [
        ("There is no placement 'nowhere'.", "FISSILE_PLACEMENT", "Use one of: monolith, split.")
    ]


def test_a_module_in_no_process() -> None:
    assert placement_faults({"one": ("a",)}) == [("The module 'b' is in no process.", WHERE, "Add it to one.")]


def test_a_module_in_two_processes() -> None:
    assert placement_faults({"one": ("a", "b"), "two": ("b",)}) == [
        ("The module 'b' is in one and two.", WHERE, "Keep it in one; a process may have replicas.")
    ]


def test_a_process_that_hosts_what_is_no_module() -> None:
    assert placement_faults({"one": ("a", "b", "c")}) == [
        ("The process 'one' hosts 'c', which is no module.", WHERE, "Use one of: a, b.")
    ]
