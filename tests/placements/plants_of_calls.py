"""Plants that break the rules of a call: bytes, isolation, errors, deadlines, repeats, bounds, order, transactions."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from fissile import Bus, HandlerFailed, Retry
from fissile import _bounds as bounds
from fissile import _build as build
from fissile import _bus as bus_file
from fissile import _handler as handler_file
from fissile import _local as local
from fissile import _messages as messages
from fissile import _remote as remote
from fissile import _requests as requests
from fissile._codec import Codec
from fissile._delivery import answers, attempts, partition
from fissile._delivery.answers import bus_of as original_bus_of
from fissile._delivery.lifecycle import Delivery
from fissile._local import local_route
from fissile._remote import remote_route
from tests.placements.modules import Act, ActInOrder, Answer, CallFront, Refused, Unnamed
from tests.placements.planting import ENDS_WELL, Patch, plant

# Any, all through this file: what is planted takes the place of private functions, whatever they take.


def _after_init(patch: Patch, cls: type, change: Callable[[Any], None], name: str = "__init__") -> None:
    original = getattr(cls, name)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        change(self)

    patch.setattr(cls, name, init)


def _change_handlers(patch: Patch, change: Callable[[Any], None]) -> None:
    _after_init(patch, handler_file.Handler, change, "__attrs_post_init__")


# --- 1: bytes --------------------------------------------------------------------------------------------------------


class _Carrier(bytes):
    """Bytes that carry the object itself."""

    value: Any

    @classmethod
    def of(cls, value: Any) -> _Carrier:
        carrier = cls()
        carrier.value = value
        return carrier


def _pass_object(codec: Any) -> None:
    codec.check, codec.encode_value, codec.decode_value = None, _Carrier.of, lambda data: data.value


@plant(1, "local", "'wrong'", shows="reply")
def a_reply_does_not_cross_as_bytes(patch: Patch) -> None:
    _after_init(patch, Codec, lambda codec: _pass_object(codec) if codec.name.startswith("the reply") else None)


@plant(1, "local", r"Answer\(number='7'\)", shows="failed back.answer TypeError")
def a_message_does_not_cross_as_bytes(patch: Patch) -> None:
    _after_init(patch, Codec, lambda codec: _pass_object(codec) if codec.name == "back.answer" else None)


def _unlimited(prefix: str) -> Callable[[Any], None]:
    def change(codec: Any) -> None:
        if codec.name.startswith(prefix):
            codec.limit_bytes = 2**40

    return change


@plant(1, "local", "fill:65535", shows="reply 'xxx")
def a_reply_may_have_any_size(patch: Patch) -> None:
    _after_init(patch, Codec, _unlimited("the reply"))


@plant(1, "loopback", "shout:70000", shows="reply")
def an_event_may_have_any_size(patch: Patch) -> None:
    _after_init(patch, Codec, _unlimited("front.happened"))


@plant(1, "loopback", r"numbers=[([][^)\]]*1180591620717411303424", shows="reply Reflection")
def an_integer_may_have_any_size(patch: Patch) -> None:
    _after_init(patch, Codec, lambda codec: setattr(codec, "check", None))


@plant(1, "local", r"Answer\(number='7'\)", shows="reply 7")
def a_type_is_converted_instead_of_refused(patch: Patch) -> None:
    def loosen(codec: Any) -> None:
        if codec.name == "back.answer":
            codec.decode_value = msgspec.json.Decoder(Answer, strict=False).decode

    _after_init(patch, Codec, loosen)


# --- 2: isolation ----------------------------------------------------------------------------------------------------


class _Open:
    """A context that isolates nothing."""

    def copy(self) -> _Open:
        return self

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class _Inherited:
    """A context that is a copy of the caller's."""

    def copy(self) -> contextvars.Context:
        return contextvars.copy_context()


@plant(2, "local", r"steps=\('mood'", shows="mood outside")
def a_handler_sees_the_context_of_its_caller(patch: Patch) -> None:
    _change_handlers(patch, lambda handler: setattr(handler, "context", _Inherited()))


@plant(2, "local", r"kind='call', messages=\(Act\(key='[^']*', steps=\('mark:angry'", shows="has left the mood angry")
def a_caller_sees_the_context_of_the_handler(patch: Patch) -> None:
    _change_handlers(patch, lambda handler: setattr(handler, "context", _Open()))


@plant(2, "loopback", "'publish:", seen_in="followed", shows="in the mood")
def a_handler_sees_what_the_one_before_it_has_set(patch: Patch) -> None:
    _change_handlers(patch, lambda handler: setattr(handler, "context", _Open()))


# --- 3: errors -------------------------------------------------------------------------------------------------------


def _change_failures(patch: Patch, change: Callable[[BaseException, Any], Any]) -> None:
    """Have a function of the error and of what became of it decide what the caller gets."""
    original = handler_file.Handler.failure

    async def failure(self: Any, error: BaseException, bus: Any) -> Any:
        named = await original(self, error, bus)
        return change(error, named)

    patch.setattr(handler_file.Handler, "failure", failure)


@plant(3, "local", "'fail:broken'", shows="escaped ValueError('broken')")
def an_undeclared_error_arrives_as_itself(patch: Patch) -> None:
    _change_failures(patch, lambda error, named: error if isinstance(named, HandlerFailed) else named)


@plant(3, "local", "'fail:broken'", shows="because of ValueError('broken')")
def a_failure_has_a_cause(patch: Patch) -> None:
    def add(error: BaseException, named: Any) -> Any:
        if named is not None:
            named.__cause__ = error
        return named

    _change_failures(patch, add)


@plant(3, "local", "'hidden:because'", shows="because of ValueError('hidden')")
def a_declared_error_is_not_rebuilt(patch: Patch) -> None:
    _change_failures(patch, lambda error, named: error if isinstance(error, Refused) else named)


@plant(3, "loopback", "'group:of one'", shows="ExceptionGroup")
def a_group_of_one_is_a_group(patch: Patch) -> None:
    patch.setattr(handler_file, "only_leaf", lambda error: error)


@plant(3, "loopback", "'unnamed:because'", shows="declared Unnamed")
def an_error_that_the_message_does_not_name_arrives(patch: Patch) -> None:
    patch.setattr(messages.Request, "declared_errors", (Refused, Unnamed))
    for message in (Act, ActInOrder, CallFront):
        patch.setattr(message, "declared_errors", (Refused, Unnamed))


@plant(3, "loopback", "'fail:broken'", shows="failed front.act ValueError")
def the_text_of_a_failure_is_lost(patch: Patch) -> None:
    def encode(error: HandlerFailed) -> bytes:
        return requests.encode_failure(HandlerFailed(error.message_name, error.message_id, error.error_type, ""))

    patch.setattr(answers, "encode_failure", encode)


@plant(3, "local", "'exit'", shows="escaped SystemExit(3)")
def an_exit_of_a_handler_is_one_of_its_caller(patch: Patch) -> None:
    _change_failures(patch, lambda error, named: None if isinstance(error, SystemExit) else named)


# --- 4: deadline and cancellation ------------------------------------------------------------------------------------


def _change_delivered(patch: Patch, change: Callable[[Any], None]) -> None:
    """Change the bus of each handler whose message came through the log."""

    def bus_of(delivery: Delivery) -> Any:
        bus = original_bus_of(delivery)
        change(bus)
        return bus

    patch.setattr(attempts, "bus_of", bus_of)


@plant(4, "loopback", "'budget'", shows="budget inf")
def the_deadline_does_not_travel(patch: Patch) -> None:
    _change_delivered(patch, lambda bus: setattr(bus, "_deadline", float("inf")))


@plant(4, "loopback", "'budget'", shows="budget inf")
def a_call_without_a_scope_has_no_deadline(patch: Patch) -> None:
    def route(*args: Any, **kwargs: Any) -> Any:
        return remote_route(*args, **{**kwargs, "default_timeout_s": 1e6})

    patch.setattr(build, "remote_route", route)


@plant(4, "loopback", "linger:", seen_in="happened", shows="went on")
def a_handler_goes_on_whose_caller_has_given_up_elsewhere(patch: Patch) -> None:
    patch.setattr(remote.Remote, "_send_cancellation", lambda *_: None)


@plant(4, "local", "linger:", seen_in="happened", shows="went on")
def a_handler_goes_on_whose_caller_has_given_up_here(patch: Patch) -> None:
    def shield(handler: Any) -> None:
        call = handler.call

        async def shielded(message: Any, bus: Any) -> Any:
            with anyio.CancelScope(shield="linger" in repr(message)):
                return await call(message, bus)

        handler.call, handler.call_alone = shielded, None

    _change_handlers(patch, shield)


@plant(4, "local", "kind='cancelled', .*publish:never", seen_in="happened", shows="never")
def a_call_is_no_cancellation_point(patch: Patch) -> None:
    patch.setattr(build, "cancellation_test", lambda: lambda: False)


@plant(4, "local", "'stumble'", shows="failed front.act ValueError")
def an_error_takes_the_place_of_the_cancellation(patch: Patch) -> None:
    original = handler_file.Handler.failure

    async def failure(self: Any, error: BaseException, bus: Any) -> Any:
        if isinstance(error, ValueError) and "cancelled" in str(error):
            return HandlerFailed(self.name, bus._message_id(), "ValueError", str(error))
        return await original(self, error, bus)

    patch.setattr(handler_file.Handler, "failure", failure)


@plant(4, "local", "'stray'", shows="escaped a stray cancellation", backends=("asyncio",))
def a_stray_cancellation_is_taken_for_the_callers(patch: Patch) -> None:
    patch.setattr(handler_file, "_is_stray", lambda _: False)


# --- 5: repeats ------------------------------------------------------------------------------------------------------


@plant(5, "repeats", f"'publish:one'{ENDS_WELL}", seen_in="happened", shows="'one', 'one'")
def a_repeated_handler_gives_new_ids(patch: Patch) -> None:
    def next_child_id(self: Any) -> str:
        self._children += 1
        new: str = self._routes.new_id()
        return new

    patch.setattr(bus_file.Queries, "_next_child_id", next_child_id)


@plant(5, "local", "id='given", shows="an id")
def an_id_that_the_caller_gives_is_not_kept(patch: Patch) -> None:
    original = Bus.execute
    patch.setattr(Bus, "execute", lambda self, command, id=None: original(self, command))  # noqa: A006


@plant(5, "local", r"'child'[^A]*id='given", shows="an id")
def the_id_of_a_child_does_not_follow_from_its_parents(patch: Patch) -> None:
    def message_id(self: Any) -> str:
        if self._id is None:
            self._id = self._routes.new_id()
        found: str = self._id
        return found

    patch.setattr(bus_file.Queries, "_message_id", message_id)


@plant(5, "loopback", "'execute'", shows="reply Reflection(text='execute'")
def a_query_may_have_effects(patch: Patch) -> None:
    _change_handlers(patch, lambda handler: setattr(handler, "bus_type", Bus))


# --- 6: who waits ----------------------------------------------------------------------------------------------------


@plant(6, "loopback", "'flaky'", shows="reply")
def a_request_is_tried_again_whose_caller_waits(patch: Patch) -> None:
    original = attempts.Attempts._answer_to

    async def answer_to(self: Any, delivery: Any, request: Any, bus: Any, error: BaseException) -> Any:
        outcome: Any = await original(self, delivery, request, bus, error)
        if (requests.OUTCOME, b"failed") not in outcome.headers:
            return outcome
        delivery.failures += 1
        again = original_bus_of(delivery)
        try:
            message = delivery.subscription.handler.message.decode(delivery.record.value)
            reply = await self._run(delivery, message, again)
        except BaseException as failure:  # noqa: BLE001 -- as in there
            return await original(self, delivery, request, again, failure)
        return answers.answer_reply(request, reply, answers.trace_of_answer(again))

    patch.setattr(attempts.Attempts, "_answer_to", answer_to)


@plant(6, "local", r"'progress:early'[^)]*'fail:broken'", seen_in="happened", shows="'early', 'early'")
def a_call_in_one_process_is_tried_again(patch: Patch) -> None:
    def route(handler: Any, *args: Any, **kwargs: Any) -> Any:
        call = local_route(handler, *args, **kwargs)

        async def twice(bus: Any, message: Any, message_id: Any, *more: Any) -> Any:
            try:
                return await call(bus, message, message_id, *more)
            except HandlerFailed:
                return await call(bus, message, message_id, *more)

        return twice

    patch.setattr(build, "local_route", route)


@plant(6, "loopback", "'flaky', 'publish:y'", seen_in="letters", shows="front.act-in-order ValueError")
def a_sent_command_is_not_tried_again(patch: Patch) -> None:
    patch.setattr(Retry, "is_over", lambda *_: True)


# --- 7: bounds -------------------------------------------------------------------------------------------------------


@plant(7, "loopback", "'crowd:20'", shows="20 answered")
def a_caller_may_have_any_number_of_calls_in_flight(patch: Patch) -> None:
    patch.setattr(build, "Gate", lambda _: bounds.Gate(10**6))


@plant(7, "local", "'crowd:", shows="crowded")
def a_module_runs_any_number_of_handlers(patch: Patch) -> None:
    patch.setattr(build, "Slots", lambda _: bounds.Slots(10**6))


@plant(7, "local", "'down:4'", shows="nothing came")
def a_chain_in_one_process_waits_for_its_own_slot(patch: Patch) -> None:
    patch.setattr(local, "holds_slot", lambda *_: False)


@plant(7, "loopback", "'down:4'", shows="nothing came")
def a_chain_through_the_log_waits_for_its_own_slot(patch: Patch) -> None:
    patch.setattr(attempts, "holds_slot", lambda *_: False)


@plant(7, "loopback", "'down:4'", shows="reply 'bottom'")
def the_depth_of_a_chain_does_not_travel(patch: Patch) -> None:
    _change_delivered(patch, lambda bus: setattr(bus, "_depth", 1))


@plant(7, "loopback", r"AskFront\(text='x'\)", shows="chain=()")
def the_chain_does_not_travel(patch: Patch) -> None:
    patch.setattr(requests, "chain_of", lambda _: ())


# --- 8: order of commands --------------------------------------------------------------------------------------------


@asynccontextmanager
async def _no_turn(*_: Any) -> AsyncGenerator[None]:
    yield


@plant(8, "local", "kind='overlap'", seen_in="happened", shows="'in a', 'in b'")
def commands_of_one_key_overlap_in_one_process(patch: Patch) -> None:
    patch.setattr(bounds.Turns, "turn", _no_turn)


@plant(8, "loopback", "kind='overlap'", seen_in="happened", shows="'in a', 'in b'")
def commands_of_one_key_overlap_in_the_log(patch: Patch) -> None:
    patch.setattr(bounds.Turns, "turn", _no_turn)
    original = partition.PartitionState.add

    def add(self: Any, record: Any, subscriptions: Any, key: Any, *more: Any) -> Any:
        is_command = any(one.handler.kind == "command" for one in subscriptions)
        return original(self, record, subscriptions, None if is_command else key, *more)

    patch.setattr(partition.PartitionState, "add", add)


@plant(8, "local", "'again:word'", shows="nothing came")
def a_command_waits_for_the_turn_of_its_own_ancestor(patch: Patch) -> None:
    patch.setattr(bounds, "holds_turn", lambda *_: False)


# --- 9: transactions -------------------------------------------------------------------------------------------------


class _Deaf:
    """Takes no notice of `forbid_calls`."""

    def set(self, _: Any) -> None: ...
    def reset(self, _: Any) -> None: ...
    def get(self) -> None: ...


@plant(9, "local", "'locked:1'", shows="reply")
def a_transaction_forbids_no_calls_in_one_process(patch: Patch) -> None:
    patch.setattr(local, "_no_calls", _Deaf())


@plant(9, "loopback", "'locked:1'", shows="reply")
def a_transaction_forbids_no_calls_through_the_log(patch: Patch) -> None:
    patch.setattr(local, "_no_calls", _Deaf())
