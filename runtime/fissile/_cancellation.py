"""Whether the code that runs is in a cancelled scope: the cheap question before the dear one.

Every call is a cancellation point. AnyIO's own `checkpoint_if_cancelled` takes 0.7 to 1.4 µs on asyncio, most of it for finding out the event
loop and the task: as much as encoding and decoding a small message and its reply. So the scopes are looked at directly, in 0.1 µs, and
AnyIO's check is made only where one of them is cancelled. That takes a look at what AnyIO and Trio keep to themselves; so it is tried
when an application starts, and not used where it does not give the right answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from math import inf
from operator import attrgetter
from typing import Any
from weakref import ref

import anyio


def cancellation_test() -> Callable[[], bool]:
    """Return what tells whether the code that runs may be in a cancelled scope, for the running event loop.

    Where the scopes cannot be looked at, because a version of AnyIO or Trio keeps them in another way, the answer is always yes; then every
    call makes the full check.
    """
    import sniffio

    try:
        test = _trio_test() if sniffio.current_async_library() == "trio" else _asyncio_test()
        if _is_right(test):
            return test
    except (ImportError, AttributeError, LookupError, TypeError):
        pass
    return lambda: True


def deadline_test() -> Callable[[], float]:
    """Return what tells the deadline of the code that runs, as `anyio.current_effective_deadline` does, in a tenth of its time."""
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        return trio.current_effective_deadline
    try:
        test = _asyncio_deadline()
        if _tells_deadlines(test):
            return test
    except (ImportError, AttributeError, LookupError, TypeError):
        pass
    return anyio.current_effective_deadline


def loop_clock() -> Callable[[], float]:
    """Return what tells the time by which deadlines go, as `anyio.current_time` does, without its search for the event loop."""
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        return trio.current_time
    import asyncio

    return asyncio.get_running_loop().time


def _tells_deadlines(test: Callable[[], float]) -> bool:
    """Try a test on scopes of which the deadline is known."""
    answers: list[float] = []
    with anyio.CancelScope(shield=True) as outer:  # noqa: ASYNC100 -- nothing is awaited: nothing is to be cancelled
        answers.append(test())
        outer.deadline = 2e9
        with anyio.CancelScope(deadline=1e9):  # noqa: ASYNC100
            answers.append(test())
        with anyio.CancelScope(deadline=3e9):  # noqa: ASYNC100
            answers.append(test())
        with anyio.CancelScope(shield=True):  # noqa: ASYNC100
            answers.append(test())
        outer.cancel()
        answers.append(test())
    return answers == [inf, 1e9, 2e9, inf, -inf]


def _asyncio_deadline() -> Callable[[], float]:
    import asyncio

    from anyio._backends import _asyncio

    loop = asyncio.get_running_loop()
    task_of, state_of = _lookups(asyncio, _asyncio)

    def deadline() -> float:
        task = task_of(loop)
        # Not `WeakKeyDictionary.get`, which is written in Python. A task's weak reference is made once, and knows its hash.
        state = None if task is None else state_of(ref(task))
        scope = None if state is None else state.cancel_scope
        found = inf
        while scope is not None:
            if scope._cancel_called:
                return -inf
            if scope._deadline < found:
                found = scope._deadline
            if scope._shield:
                break
            scope = scope._parent_scope
        return found

    return deadline


def _is_right(test: Callable[[], bool]) -> bool:
    """Try a test on scopes of which it is known whether they are cancelled."""
    answers: list[bool] = []
    with anyio.CancelScope(shield=True) as scope:  # noqa: ASYNC100 -- nothing is awaited: nothing is to be cancelled
        answers.append(test())
        scope.cancel()
        answers.append(test())
        with anyio.CancelScope():  # noqa: ASYNC100
            answers.append(test())
        with anyio.CancelScope(shield=True):  # noqa: ASYNC100
            answers.append(test())
    return answers == [False, True, True, False]


def _trio_test() -> Callable[[], bool]:
    from trio._core._run import GLOBAL_RUN_CONTEXT

    return partial(attrgetter("task._cancel_status.effectively_cancelled"), GLOBAL_RUN_CONTEXT)


def _asyncio_test() -> Callable[[], bool]:
    import asyncio

    from anyio._backends import _asyncio

    loop = asyncio.get_running_loop()
    task_of, state_of = _lookups(asyncio, _asyncio)
    # A task often makes several calls in a row: remembering it, weakly, saves half of the time.
    last_task: Callable[[], object] = str
    last_state: Any = None

    def is_cancelled() -> bool:
        nonlocal last_task, last_state
        task = task_of(loop)
        if last_task() is task:
            scope = last_state.cancel_scope
        elif task is None or (state := state_of(reference := ref(task))) is None:
            return False  # no task, or one that was not started through AnyIO and has entered no scope
        else:
            last_task, last_state = reference, state
            scope = state.cancel_scope
        while scope is not None:
            if scope._cancel_called:
                return True
            if scope._shield:
                return False
            scope = scope._parent_scope
        return False

    return is_cancelled


# Any: what follows is private to AnyIO and asyncio.
def _lookups(asyncio: Any, backend: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what gives the task that runs in a loop, and what gives AnyIO's state of a task, by a weak reference to it."""
    task_of: Callable[[Any], Any] = asyncio.current_task
    if sys.version_info < (3, 12):
        # There `current_task` is written in Python, and takes three times as long as what it looks into.
        task_of = asyncio.tasks._current_tasks.get
    return task_of, backend._task_states.data.get
