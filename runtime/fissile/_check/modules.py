"""The faults of modules: messages without a handler or with two, parameters that nobody provides, replies of the wrong type."""

from __future__ import annotations

import inspect
import types
from random import Random
from typing import Any, Union, get_args, get_origin

import msgspec

from fissile._bus import Bus, Caller, Queries
from fissile._check.contracts import Catalog
from fissile._clock import Clock, Ids
from fissile._errors import Fault
from fissile._messages import Command, Query
from fissile._module import HandlerDeclaration, Module, SagaDeclaration, SubscriptionDeclaration
from fissile._names import place, source_place
from fissile._process import Lifespan, Process
from fissile._settings import ModuleSettings
from fissile._signature import Signature, read_signature, resource_type, type_name

PER_MESSAGE = (Bus, Queries, Caller)
OF_THE_RUNTIME = (Clock, Ids, Random, Process)
OF_A_WORKER = (Bus, Queries, Lifespan)


class HandlerPlan(msgspec.Struct, frozen=True):
    """A handler that was found to fit."""

    declaration: HandlerDeclaration
    signature: Signature


class SubscriptionPlan(msgspec.Struct, frozen=True):
    """A subscriber that was found to fit."""

    declaration: SubscriptionDeclaration
    signature: Signature


class SagaPlan(msgspec.Struct, frozen=True):
    """A saga that was found to fit."""

    declaration: SagaDeclaration
    signature: Signature


class ResourcePlan(msgspec.Struct, frozen=True):
    """A resource that was found to fit, and the type it provides."""

    signature: Signature
    provides: Any  # Any: a type expression


class ModulePlan(msgspec.Struct, frozen=True):
    """A module whose declarations fit: the resources in the order in which they open."""

    module: Module
    resources: list[ResourcePlan] = msgspec.field(default_factory=list[ResourcePlan])
    handlers: list[HandlerPlan] = msgspec.field(default_factory=list[HandlerPlan])
    subscriptions: list[SubscriptionPlan] = msgspec.field(default_factory=list[SubscriptionPlan])
    workers: list[Signature] = msgspec.field(default_factory=list[Signature])
    sagas: list[SagaPlan] = msgspec.field(default_factory=list[SagaPlan])
    settings: list[type[ModuleSettings]] = msgspec.field(default_factory=list[type[ModuleSettings]])

    @property
    def of_the_database(self) -> tuple[type, ...]:
        """The types that the module's database provides."""
        if self.module.database is not None:
            return self.module.database.provides
        if self.module.sagas:  # that they have no database is a fault of its own
            from fissile.database._sagas import Sagas

            return (Sagas,)
        return ()


def check_module(module: Module, catalog: Catalog, faults: list[Fault]) -> ModulePlan:
    """Read a module's declarations, and note their faults."""
    plan = ModulePlan(module)
    if module.database is not None:
        faults.extend(module.database.faults())
    _check_resources(module, plan, faults)
    _check_handlers(module, catalog, plan, faults)
    _check_subscriptions(module, catalog, plan, faults)
    for function in module.workers:
        signature = read_signature(function, takes_message=False, faults=faults)
        if signature is not None:
            _check_parameters(signature, plan, (*OF_A_WORKER, *OF_THE_RUNTIME), "a worker", faults)
            plan.workers.append(signature)
            if not signature.is_async:
                faults.append(
                    Fault(f"{function.__qualname__} is a worker and not async.", signature.place, "Write async def.")
                )
    _check_schedules(module, faults)
    if module.sagas:
        from fissile._check.sagas import check_sagas  # it knows of the database

        check_sagas(module, plan, faults)
    return plan


def _check_schedules(module: Module, faults: list[Fault]) -> None:
    names: set[str] = set()
    where = place(*module.contract.place)
    for schedule in module.schedules:
        problem = None
        if module.database is None:
            problem = f"The schedule {schedule.name} of {module.name} has no database to keep what is due."
            cure = "Declare one: Module(contract, database=Schema(metadata))."
        elif schedule.name in names:
            problem = f"{module.name} has two schedules that are called {schedule.name!r}."
            cure = "Give one another name; what is due is kept under it."
        elif type(schedule.command) not in module.contract.commands:
            problem = f"The schedule {schedule.name} sends {type(schedule.command).__name__}, which is no command of {module.name}."
            cure = "Send a command of the module's own contract; its handler can send others."
        else:
            problem = module.database.schedule_problem(schedule)
            cure = (
                "Write five fields, such as '0 3 * * *' (at three at night), and a time zone such as 'Europe/Berlin'."
            )
        names.add(schedule.name)
        if problem is not None:
            faults.append(Fault(problem, where, cure))


# --- resources -------------------------------------------------------------------------------------------------------


def _check_resources(module: Module, plan: ModulePlan, faults: list[Fault]) -> None:
    found: dict[Any, ResourcePlan] = {}
    for factory in module.resources:
        signature = read_signature(factory, takes_message=False, faults=faults)
        if signature is None:
            continue
        provides = resource_type(signature)
        name = getattr(factory, "__qualname__", repr(factory))
        if provides is None:
            faults.append(
                Fault(
                    f"The resource {name} does not say what it yields.",
                    signature.place,
                    "Write @asynccontextmanager and -> AsyncGenerator[Store] (from collections.abc).",
                )
            )
        elif provides in found:
            other = found[provides].signature.place
            faults.append(
                Fault(
                    f"Two resources yield {type_name(provides)}; the other is in {other}.",
                    signature.place,
                    "Give one a type of its own.",
                )
            )
        else:
            found[provides] = ResourcePlan(signature, provides)
    # Depth first, so that each opens after what it needs.
    opened: dict[Any, None] = {}

    def visit(provides: Any, path: tuple[Any, ...]) -> None:
        if provides in opened:
            return
        if provides in path:
            circle = " → ".join(type_name(each) for each in (*path[path.index(provides) :], provides))
            faults.append(
                Fault(f"Resources need each other in a circle: {circle}.", found[provides].signature.place, "Break it.")
            )
            return
        for needed in found[provides].signature.parameters.values():
            if needed in found:
                visit(needed, (*path, provides))
        if provides not in opened:
            opened[provides] = None
            plan.resources.append(found[provides])

    for provides in found:
        visit(provides, ())
    for resource in plan.resources:
        _check_parameters(resource.signature, plan, OF_THE_RUNTIME, "a resource", faults)


def _check_parameters(
    signature: Signature, plan: ModulePlan, also: tuple[Any, ...], what: str, faults: list[Fault]
) -> None:
    provided = {*(resource.provides for resource in plan.resources), *plan.of_the_database}
    for name, annotation in signature.parameters.items():
        if annotation in provided or annotation in also:
            continue
        if isinstance(annotation, type) and issubclass(annotation, ModuleSettings):
            if annotation not in plan.settings:
                plan.settings.append(annotation)
            continue
        function = getattr(signature.function, "__qualname__", repr(signature.function))
        if annotation in (Bus, Queries):
            cure = (
                "Take Queries instead: a query has no effects."
                if what == "a query's handler" and annotation is Bus
                else "Open it without calling other modules; they may not be there yet. A worker may call them."
            )
        elif annotation in (*PER_MESSAGE, *OF_A_WORKER):
            cure = "Remove the parameter."
        elif plan.module.database is None and _is_of_the_database(annotation):
            cure = f"Give the module {plan.module.name} a database: Module(contract, database=Schema(metadata))."
        else:
            cure = f"Declare one: @module.resource above an async context manager that yields {type_name(annotation)}."
        faults.append(
            Fault(
                f"{function} takes {name}: {type_name(annotation)}, which nobody gives to {what}.",
                signature.place,
                cure,
            )
        )


def _is_of_the_database(annotation: Any) -> bool:  # Any: a type expression
    """Tell whether a type is one that a module's database would provide, without importing databases for it."""
    return getattr(annotation, "__module__", "").startswith("fissile.database.")


# --- handlers --------------------------------------------------------------------------------------------------------


def _check_handlers(module: Module, catalog: Catalog, plan: ModulePlan, faults: list[Fault]) -> None:
    contract = module.contract
    handled: dict[type, str] = {}
    for declaration in module.handlers:
        message, function = declaration.message, declaration.function
        where = source_place(function)
        if catalog.owners.get(message) is not contract:
            owner = catalog.owners.get(message)
            whose = f"of the contract {owner.name!r}" if owner is not None else "of no contract of the application"
            faults.append(
                Fault(
                    f"{module.name} handles {message.__name__}, which is {whose}.",
                    where,
                    "Handle only messages of the module's own contract.",
                )
            )
            continue
        if message in handled:
            faults.append(
                Fault(f"{message.__name__} has two handlers; the other is in {handled[message]}.", where, "Remove one.")
            )
            continue
        handled[message] = where
        is_query = issubclass(message, Query)
        if not is_query and not declaration.idempotent and module.database is None:
            faults.append(
                Fault(
                    f"The handler of {message.__name__} does not say how it bears a repeat.",
                    where,
                    f"Write @module.command({message.__name__}, idempotent=True) if handling it twice has the effect of handling it once; "
                    "or give the module a database, which keeps a record of each.",
                )
            )
        signature = read_signature(function, takes_message=True, faults=faults)
        if signature is None:
            continue
        also = (Queries, Caller, *OF_THE_RUNTIME) if is_query else (*PER_MESSAGE, *OF_THE_RUNTIME)
        _check_parameters(signature, plan, also, "a query's handler" if is_query else "a command's handler", faults)
        _check_sync(signature, plan, faults)
        if signature.first is not message:
            faults.append(
                Fault(
                    f"{function.__qualname__} handles {message.__name__} and takes {type_name(signature.first)}.",
                    where,
                    "Make the message its first parameter.",
                )
            )
        if signature.returns is inspect.Signature.empty:
            faults.append(_says_nothing(signature, f"-> {type_name(catalog.replies.get(message))}"))
        elif message in catalog.replies and not _fits(signature.returns, catalog.replies[message]):
            faults.append(
                Fault(
                    f"{function.__qualname__} returns {type_name(signature.returns)}; the reply of {message.__name__} is "
                    f"{type_name(catalog.replies[message])}.",
                    where,
                    "Make them the same.",
                )
            )
        plan.handlers.append(HandlerPlan(declaration, signature))
    for message in (*contract.commands, *contract.queries):
        if message not in handled:
            kind = "command" if issubclass(message, Command) else "query"
            faults.append(
                Fault(
                    f"The {kind} {message.__name__} has no handler.",
                    source_place(message),
                    f"Write one in the module {module.name!r}: @module.{kind}({message.__name__}).",
                )
            )


def _says_nothing(signature: Signature, cure: str) -> Fault:
    return Fault(f"{signature.function.__qualname__} does not say what it returns.", signature.place, f"Write {cure}.")


def _check_sync(signature: Signature, plan: ModulePlan, faults: list[Fault]) -> None:
    if signature.is_async:
        return
    taken = set(signature.parameters.values())
    if taken & {Bus, Queries, *plan.of_the_database}:
        name = getattr(signature.function, "__qualname__", "?")
        what = "a bus" if taken & {Bus, Queries} else "a database"
        faults.append(
            Fault(
                f"{name} is a sync function and takes {what}.",
                signature.place,
                "Write async def; a thread cannot await.",
            )
        )


def _fits(returned: Any, reply: Any) -> bool:
    """Tell whether a handler's return annotation is the reply type, or names some of its alternatives."""
    none = type(None)
    reply_members = {none if member is None else member for member in _members(reply)}
    return {none if member is None else member for member in _members(returned)} <= reply_members


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


# --- subscriptions ---------------------------------------------------------------------------------------------------


def _check_subscriptions(module: Module, catalog: Catalog, plan: ModulePlan, faults: list[Fault]) -> None:
    starts: dict[str, SubscriptionDeclaration] = {}
    for declaration in module.subscriptions:
        topic, function = declaration.topic, declaration.function
        where = source_place(function)
        if catalog.topics.get(topic.name) is not topic:
            faults.append(
                Fault(
                    f"{function.__qualname__} subscribes to the topic {topic.name}, which no contract of the application declares.",
                    where,
                    f"List the module that declares it (in {place(*topic.place)}) in [tool.fissile] modules.",
                )
            )
            continue
        for event in declaration.events:
            if event not in topic.events:
                faults.append(
                    Fault(
                        f"{function.__qualname__} subscribes to {event.__name__}, which {topic.name} does not carry.",
                        where,
                        "Name one it carries.",
                    )
                )
        first = starts.setdefault(topic.name, declaration)
        if first.start != declaration.start:
            faults.append(
                Fault(
                    f"{module.name} subscribes to {topic.name} from the {first.start} and from the {declaration.start}.",
                    where,
                    "Let both begin at the same place: a module reads a topic once.",
                )
            )
        signature = read_signature(function, takes_message=True, faults=faults)
        if signature is None:
            continue
        _check_parameters(signature, plan, (*PER_MESSAGE, *OF_THE_RUNTIME), "a subscriber", faults)
        _check_sync(signature, plan, faults)
        accepted = _members(signature.first)
        missing = [
            event
            for event in declaration.events
            if not any(isinstance(cls, type) and issubclass(event, cls) for cls in accepted)
        ]
        if missing:
            names = ", ".join(event.__name__ for event in missing)
            faults.append(
                Fault(
                    f"{function.__qualname__} takes {type_name(signature.first)} and would get {names} too.",
                    where,
                    "Widen the parameter, or name the one event: @module.subscribe(topic, TheEvent).",
                )
            )
        if signature.returns is inspect.Signature.empty:
            faults.append(_says_nothing(signature, "-> None"))
        elif not _fits(signature.returns, None):
            faults.append(
                Fault(f"{function.__qualname__} returns a value, and an event has no reply.", where, "Return None.")
            )
        plan.subscriptions.append(SubscriptionPlan(declaration, signature))
