"""`fissile dead-letters`: what was given up: list it, look at it, retry it, edit it, put it aside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Parameter

from fissile._check import Catalog
from fissile._delivery.dead_letters import STATES, DeadLetter, LetterState
from fissile._delivery.letter_box import LetterBox
from fissile._errors import CallRefused
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._letter_edit import new_body
from fissile.cli._letter_view import SHOWN_ID, check_of, everything, groups, row, short_row, tell
from fissile.cli._letters import Chosen, Letters, Selection, choose
from fissile.cli._table import show_table

dead_letters = App(
    name="dead-letters",
    help="Show, retry, edit or archive messages that were given up. On a bus that others can reach, as Kafka is.",
)

Given = Context
Flag = Parameter(negative=(), show_default=False)
Act = Callable[[LetterBox, list[DeadLetter]], Coroutine[Any, Any, Sequence[DeadLetter]]]  # Any: as coroutines have it

_NOTHING = Selection()
_GROUP_COLUMNS = ("handler", "error", "type", *STATES, "first_failed", "last_failed")
_COLUMNS = ("id", "state", "handler", "error", "type", "key", "attempts", "last_failed", "reason")


@dead_letters.command
def ls(
    *,
    each: Annotated[bool, Flag] = False,
    state: LetterState | None = None,
    selection: Chosen = _NOTHING,
    context: Given,
) -> Exit:
    """List dead letters: counted by handler and error, or each.

    A letter is `dead`, `retrying` (on its way to its handler) or `archived`. One whose retry was handled is no more.

    Args:
        each: Each letter on a line, the oldest first.
        state: Only those in this state.
        selection: Which.
        context: What all commands are given.
    """
    found = Letters.find(context)
    letters = found.act(partial(_take, (), selection, STATES if state is None else (state,)))
    if context.as_json:
        context.output.json([row(letter) for letter in letters] if each else groups(letters))
    elif not letters:
        context.output.say("There are no dead letters." if selection.is_empty else "There are no such dead letters.")
    elif each:
        show_table(context.output, [short_row(letter) for letter in letters], _COLUMNS)
    else:
        show_table(context.output, groups(letters), _GROUP_COLUMNS)
    return Exit.OK


@dead_letters.command
def show(letter: str, /, *, context: Given) -> Exit:
    """Show all that is known of a dead letter: the message, the error with its traceback, where it came from.

    Fields that the contract declares as secret are masked. The error's text and traceback are as they were.

    Args:
        letter: Its id, or the beginning of it.
        context: What all commands are given.
    """
    found = Letters.find(context)
    (chosen,) = found.act(partial(_take, (letter,), _NOTHING, STATES))
    check = check_of(found.catalog, found.application.settings)
    if context.as_json:
        context.output.json(everything(chosen, check))
    else:
        tell(chosen, check, context.output)
    return Exit.OK


@dead_letters.command
def retry(
    *letter: str,
    selection: Chosen = _NOTHING,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False)] = False,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative=(), show_default=False)] = False,
    dry_run: Annotated[bool, Flag] = False,
    context: Given,
) -> Exit:
    """Send dead letters to the handlers that gave them up, the oldest first, and return when they are on their way.

    A message keeps its id and its key and gives up its place in the order: later messages of its key may have been handled since, or be
    handled at the same time. One that is handled takes its letter with it; one that fails again is dead again.

    Args:
        letter: Their ids, or the beginnings of those; archived ones too, and ones on their way, which are sent once more.
        selection: Which, where no ids are given; only dead ones.
        every: All dead ones.
        yes: Do not ask whether to do it for all.
        dry_run: Show which, and do nothing.
        context: What all commands are given.
    """
    found = Letters.find(context)

    async def send(box: LetterBox, letters: list[DeadLetter]) -> Sequence[DeadLetter]:
        return await box.retry(letters)

    done = _do(found, context, "retry", send, letter, selection, every=every, yes=yes, dry_run=dry_run)
    if done and not dry_run:
        modules = ", ".join(sorted({each.module for each in done}))
        context.output.say(
            f"{_count(done)} on the way to {modules}, each with its own id, behind what has come since: the place in the order is given up. "
            "What is handled is no more, what fails again is dead again: `fissile dead-letters ls`."
        )
    return Exit.OK


@dead_letters.command
def archive(
    *letter: str,
    selection: Chosen = _NOTHING,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False)] = False,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative=(), show_default=False)] = False,
    dry_run: Annotated[bool, Flag] = False,
    context: Given,
) -> Exit:
    """Put dead letters aside. They are kept, and retried only by their ids.

    Args:
        letter: Their ids, or the beginnings of those.
        selection: Which, where no ids are given; only dead ones.
        every: All dead ones.
        yes: Do not ask whether to do it for all.
        dry_run: Show which, and do nothing.
        context: What all commands are given.
    """
    found = Letters.find(context)

    async def put_aside(box: LetterBox, letters: list[DeadLetter]) -> Sequence[DeadLetter]:
        return await box.archive(letters)

    done = _do(found, context, "archive", put_aside, letter, selection, every=every, yes=yes, dry_run=dry_run)
    if done and not dry_run:
        context.output.say(f"{_count(done)} put aside: `fissile dead-letters ls --state archived`.")
    return Exit.OK


@dead_letters.command
def edit(
    letter: str,
    /,
    *,
    body: str | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    send: Annotated[bool, Parameter(name="--retry", negative=(), show_default=False)] = False,
    dry_run: Annotated[bool, Flag] = False,
    context: Given,
) -> Exit:
    """Give the message of a dead letter another body: in your editor (VISUAL, EDITOR), as JSON, or field by field.

    What does not fit the message's contract is refused, and the field is named. The message gets an id of its own (`…~1`), because another
    content under the same id is refused wherever ids are remembered.

    Args:
        letter: Its id, or the beginning of it.
        body: JSON, @file, or - for the standard input.
        set_: One field, as field=value; may be repeated.
        send: Retry it then.
        dry_run: Check the body, and do nothing.
        context: What all commands are given.
    """
    found = Letters.find(context)
    (chosen,) = found.act(partial(_take, (letter,), _NOTHING, STATES))
    if not chosen.is_complete or chosen.state == "retrying":
        why = "it is being retried" if chosen.is_complete else "its message was too large to be kept"
        raise CommandFailed(f"The dead letter {chosen.id} cannot be edited: {why}.", code=Exit.FAILED)
    check = check_of(found.catalog, found.application.settings)
    encoded = new_body(chosen, check, body, set_)
    if encoded == chosen.body:
        context.output.say("Nothing was changed.")
        return Exit.OK
    if dry_run:
        context.output.say(f"The body fits {chosen.name}. Nothing was changed: --dry-run.")
        return Exit.OK

    async def change(box: LetterBox, letters: tuple[DeadLetter, ...]) -> DeadLetter:
        if chosen not in letters:
            raise CommandFailed(
                f"The dead letter {chosen.id} has changed meanwhile. Nothing was done; look at it again.",
                code=Exit.FAILED,
            )
        changed = await box.edit(chosen, encoded)
        return (await box.retry([changed]))[0] if send else changed

    changed = found.act(change)
    if context.as_json:
        context.output.json(everything(changed, check))
        return Exit.OK
    context.output.data(changed.id)
    what = "it is on its way" if send else f"`fissile dead-letters retry {changed.id[:SHOWN_ID]}` sends it"
    context.output.say(f"The message is {changed.message_id} now; {what}.")
    return Exit.OK


async def _take(
    ids: Sequence[str],
    selection: Selection,
    states: Sequence[LetterState],
    _box: LetterBox,
    letters: tuple[DeadLetter, ...],
) -> list[DeadLetter]:
    return choose(letters, ids, selection, states)


async def _take_known(
    catalog: Catalog,
    ids: Sequence[str],
    selection: Selection,
    states: Sequence[LetterState],
    _box: LetterBox,
    letters: tuple[DeadLetter, ...],
) -> list[DeadLetter]:
    selection.check(letters, catalog)
    return choose(letters, ids, selection, states)


def _do(
    found: Letters,
    context: Context,
    verb: str,
    act: Act,
    ids: Sequence[str],
    selection: Selection,
    *,
    every: bool,
    yes: bool,
    dry_run: bool,
) -> Sequence[DeadLetter]:
    """Do something with the letters that are meant, and tell which.

    Raises:
        CommandFailed: None is meant clearly, or a person said no.
    """
    if not ids and selection.is_empty and not every:
        raise CommandFailed(
            f"Which dead letters? Name their ids, a group (--handler, --error, --type, --module, --since), or --all to {verb} all.",
            "`fissile dead-letters ls` shows what there is.",
            code=Exit.USAGE,
        )
    if ids and (every or not selection.is_empty):
        raise CommandFailed("Ids name letters by themselves; leave out --all and the others.", code=Exit.USAGE)
    if dry_run or (every and not yes):
        meant = found.act(partial(_take_known, found.catalog, ids, selection, ("dead",)))
        if dry_run or not meant:
            _tell(context, meant, is_done=False)
            return meant
        _ask(f"{verb.capitalize()} {_count(meant)}?")

    async def do(box: LetterBox, letters: tuple[DeadLetter, ...]) -> Sequence[DeadLetter]:
        selection.check(letters, found.catalog)
        return await act(box, choose(letters, ids, selection, ("dead",)))

    try:
        done = found.act(do)
    except CallRefused as error:
        raise CommandFailed(str(error), code=Exit.FAILED) from None
    _tell(context, done, is_done=True)
    return done


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{question} There is no terminal to ask on, and nothing was done.", "Pass --yes.", code=Exit.USAGE
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed("Nothing was done.", code=Exit.FAILED)


def _tell(context: Context, letters: Sequence[DeadLetter], *, is_done: bool) -> None:
    if context.as_json:
        context.output.json({"done": is_done, "letters": [row(letter) for letter in letters]})
    elif letters:
        show_table(context.output, [short_row(letter) for letter in letters], _COLUMNS)
    else:
        context.output.say("There are no such dead letters; nothing was done.")
    if letters and not is_done:
        context.output.say(f"{_count(letters)}; nothing was done: --dry-run.")


def _count(letters: Sequence[DeadLetter]) -> str:
    return f"{len(letters)} dead letter{'' if len(letters) == 1 else 's'}"
