"""The faults of sagas: names that are taken, parameters that would not be the same each time."""

from __future__ import annotations

import inspect
from random import Random
from typing import Any

from fissile._bus import Bus, Caller, Queries
from fissile._check.modules import ModulePlan, SagaPlan, _check_parameters, _members
from fissile._clock import Clock, Ids
from fissile._errors import Fault
from fissile._module import Module, SagaDeclaration
from fissile._process import Process
from fissile._signature import Signature, read_signature, type_name
from fissile.database._database import Database
from fissile.database._saga import Saga

NAME_LENGTH = 100

_INSTEAD: dict[Any, str] = {
    Bus: "Call with saga.execute, saga.ask, saga.publish and saga.send.",
    Queries: "Ask with saga.ask.",
    Caller: "Remove the parameter.",
    Clock: "Take the time from saga.now(), and wait with saga.sleep().",
    Ids: "Take ids from saga.new_id().",
    Random: "Take randomness from saga.random.",
    Database: "Give a function that takes the transaction to saga.transaction().",
}
"""Any: what a parameter may be annotated with."""


def check_sagas(module: Module, plan: ModulePlan, faults: list[Fault]) -> None:
    """Read a module's sagas, and note their faults."""
    names: dict[str, str] = {}
    for declaration in module.sagas:
        signature = read_signature(declaration.function, takes_message=True, faults=faults)
        if signature is None:
            continue
        where, name = signature.place, declaration.name
        if module.database is None:
            what = f"The saga {name} of {module.name} has no database to keep its history."
            faults.append(Fault(what, where, "Declare one: Module(contract, database=Schema(metadata))."))
            continue
        if name in names:
            what = f"{module.name} has two sagas that are called {name!r}; the other is in {names[name]}."
            faults.append(Fault(what, where, "Give one another name: @module.saga(..., name=...)."))
            continue
        if not 0 < len(name) <= NAME_LENGTH:
            faults.append(
                Fault(f"The name of the saga {name!r} is too long.", where, f"Use up to {NAME_LENGTH} letters.")
            )
        names[name] = where
        _check_signature(declaration, signature, faults)
        others = {key: kind for key, kind in signature.parameters.items() if kind is not Saga and kind not in _INSTEAD}
        rest = Signature(
            signature.function, signature.first, others, signature.returns, signature.is_async, signature.place
        )
        _check_parameters(rest, plan, (Process,), "a saga", faults)
        plan.sagas.append(SagaPlan(declaration, signature))


def _check_signature(declaration: SagaDeclaration, signature: Signature, faults: list[Fault]) -> None:
    name, where = declaration.function.__qualname__, signature.place
    if not signature.is_async:
        faults.append(Fault(f"{name} is a saga and not async.", where, "Write async def."))
    if next(iter(signature.parameters.values()), None) is not Saga:
        faults.append(
            Fault(f"The second parameter of {name} is no Saga.", where, "Write saga: Saga after the message.")
        )
    for parameter, kind in signature.parameters.items():
        if kind in _INSTEAD:
            what = (
                f"The saga {name} takes {parameter}: {type_name(kind)}, which is not the same each time that it runs."
            )
            faults.append(Fault(what, where, _INSTEAD[kind]))
    accepted = _members(signature.first)
    missing = [
        cls.__name__
        for cls in declaration.starts
        if not any(isinstance(each, type) and issubclass(cls, each) for each in accepted)
    ]
    if missing:
        what = f"{name} takes {type_name(signature.first)} and would get {', '.join(missing)} too."
        faults.append(Fault(what, where, "Widen the parameter, or name the one event: @module.saga(topic, TheEvent)."))
    if signature.returns not in (None, type(None)):
        what = (
            f"{name} does not say what it returns."
            if signature.returns is inspect.Signature.empty
            else f"{name} returns a value, and a saga has no reply."
        )
        faults.append(Fault(what, where, "Write -> None."))
