"""What can be done with dead letters, from anywhere that reaches the log: read them, retry, archive, edit.

Nothing here needs the module that gave them up to run. A retry is two records: the letter again, as `retrying`, and behind it the message for
the module's requests. In this order, because the handler ends the letter when it succeeds: a letter that were marked after that would stay.
A crash between the two leaves a letter that is `retrying` and can be retried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import anyio
import msgspec
from attrs import evolve

from fissile._delivery.dead_letters import DeadLetter, LetterState, edited, fold, write, write_retry
from fissile._errors import CallRefused, Unavailable
from fissile._signatures import Signatures
from fissile.abc import Outgoing, Transport

_BATCH = 100
_BATCH_BYTES = 4 * 1024 * 1024
_PATIENCE_S = 2.0
"""After how long without a record the log is asked whether there is one at all, in seconds."""
_SILENCE_S = 10.0
"""After how long without any answer the log is unavailable, in seconds."""


class LetterBox(msgspec.Struct, frozen=True, eq=False):
    """The dead letters of some modules.

    Args:
        transport: An open transport, which has their topics.
        dead_letter_topics: Where the dead letters of each module are.
        requests_topics: Where each module reads what is asked of it.
        check: Takes a letter and a new body to the body as it is stored and its key; raises if that does not fit the contract. A key of None:
            the message keeps the key that it has.
        signatures: Signs anew for whom a message was sent that is sent again; None where identities do not cross the log.
    """

    transport: Transport
    dead_letter_topics: Mapping[str, str]
    requests_topics: Mapping[str, str]
    check: Callable[[DeadLetter, bytes], tuple[bytes, bytes | None]]
    signatures: Signatures | None = None

    async def read(self, module: str | None = None) -> tuple[DeadLetter, ...]:
        """Return the letters that there are, whatever their state, the oldest first.

        Args:
            module: Only what this module has given up.

        Raises:
            Unavailable: The log does not answer.
        """
        letters: dict[str, DeadLetter] = {}
        for name in self.dead_letter_topics if module is None else (module,):
            await self._read_one(name, letters)
        return tuple(sorted(letters.values(), key=lambda letter: letter.age_order))

    async def _read_one(self, module: str, letters: dict[str, DeadLetter]) -> None:
        topic = self.dead_letter_topics[module]
        async with self.transport.read([(topic, 0)], "earliest") as reader:
            ((_, position),) = reader.begins.items()
            ((_, end),) = reader.ends.items()
            while position < end:
                with anyio.move_on_after(_PATIENCE_S):
                    records = await reader.receive()
                    fold(letters, module, records)
                    position = records[-1].offset + 1
                    continue
                silent_s = reader.status().silent_s
                if silent_s < _PATIENCE_S:
                    return  # the log answers, and has nothing more: what stood last is compacted away
                if silent_s > _SILENCE_S:
                    raise Unavailable(f"The log has not answered for {silent_s:.0f} s: {topic} cannot be read.")

    async def retry(self, letters: Iterable[DeadLetter]) -> tuple[DeadLetter, ...]:
        """Send the messages of letters to their handlers again, each to the one that gave it up.

        They are sent in the order in which they stood in their topics, whatever order they are given in.

        Returns:
            The letters as they stand now.

        Raises:
            CallRefused: The message of one was too large to be kept. None was sent.
            Unavailable: The log cannot be reached; what was not sent is as it was.
            DeadlineExceeded: The log did not answer; some may have been sent, and are `retrying`.
        """
        wanted = sorted(letters, key=lambda letter: (letter.module, letter.topic, letter.partition, letter.offset))
        for letter in wanted:
            if not letter.is_complete:
                raise CallRefused(
                    f"The dead letter {letter.id} cannot be retried: its message was too large to be kept. It is, or was, in "
                    f"{letter.topic}, partition {letter.partition}, offset {letter.offset}."
                )
        done: list[DeadLetter] = []
        for batch in _batches(wanted):
            sent = await self._mark(batch, "retrying")
            try:
                await self.transport.append(
                    [write_retry(self.requests_topics[each.module], self._signed_again(each, each)) for each in sent]
                )
            except Unavailable:
                # None was sent. If this fails too, the letters are `retrying`, and can be retried all the same.
                await self._append(batch)
                raise
            done += sent
        return tuple(done)

    async def archive(self, letters: Iterable[DeadLetter]) -> tuple[DeadLetter, ...]:
        """Put letters aside: they are kept, and retried only by name.

        Returns:
            The letters as they stand now.

        Raises:
            Unavailable: The log cannot be reached.
        """
        done: list[DeadLetter] = []
        for batch in _batches(tuple(letters)):
            done += await self._mark(batch, "archived")
        return tuple(done)

    async def edit(self, letter: DeadLetter, body: bytes) -> DeadLetter:
        """Give the message of a letter another body. That makes it another message, with an id of its own.

        Args:
            letter: The letter, which is not on its way to its handler.
            body: The new body, in the format of the old one.

        Returns:
            The letter as it stands now: `dead`, until it is retried.

        Raises:
            InvalidMessage: The body does not fit the message's contract; the reason names the field.
            UnknownMessage: No contract knows the message, so that nothing could be checked.
            CallRefused: The letter is being retried.
        """
        if letter.state == "retrying":
            raise CallRefused(f"The dead letter {letter.id} is being retried. Edit it when it has come back.")
        encoded, key = self.check(letter, body)
        changed = edited(letter, encoded, letter.raw_key if key is None else key)
        changed = self._signed_again(letter, changed)
        await self._append([changed])
        return changed

    def _signed_again(self, before: DeadLetter, letter: DeadLetter) -> DeadLetter:
        """Return a letter whose message is for whom it was before, and as long as if it was sent now."""
        if self.signatures is None:
            return letter
        return evolve(letter, headers=self.signatures.again(before.headers, before.body, letter.headers, letter.body))

    async def _mark(self, letters: Sequence[DeadLetter], state: LetterState) -> list[DeadLetter]:
        marked = [evolve(letter, state=state) for letter in letters]
        await self._append(marked)
        return marked

    async def _append(self, letters: Sequence[DeadLetter]) -> None:
        records: list[Outgoing] = [write(self.dead_letter_topics[each.module], each) for each in letters]
        await self.transport.append(records)


def _batches(letters: Sequence[DeadLetter]) -> Iterable[list[DeadLetter]]:
    """Yield letters in their order, so many at a time that one append can hold them."""
    batch: list[DeadLetter] = []
    size = 0
    for letter in letters:
        if batch and (len(batch) >= _BATCH or size + len(letter.body) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += len(letter.body) + len(letter.original or b"") + len(letter.traceback)
    if batch:
        yield batch
