"""When a failed delivery is tried again: exponential backoff with jitter, and the errors for which there is no point."""

from __future__ import annotations

from math import inf
from random import Random

from attrs import frozen


@frozen
class Retry:
    """How often and when a failed event, or a command that nobody waits for, is tried again.

    Raises `ValueError` where the numbers make no sense together, or `permanent` holds something else than classes of errors.

    Attributes:
        attempts: How often it is tried in all, the first time included; then it goes to the dead letters.
        first_s: The pause after the first failure, in seconds; it doubles with each further one.
        longest_s: The longest pause, in seconds.
        jitter: By what share a pause varies at random, so that what failed together does not return together.
        permanent: Errors for which there is no second attempt.
        parks: Whether a message that was given up holds back the later ones of its key: they go to the dead letters too, untried and in
            their order, until those before them were retried or archived. Otherwise the key goes on.
    """

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 30.0
    jitter: float = 0.2
    permanent: tuple[type[BaseException], ...] = ()
    parks: bool = False

    def __attrs_post_init__(self) -> None:
        problem = self._problem()
        if problem is not None:
            raise ValueError(f"This is no policy for a retry: {problem}.")

    def _problem(self) -> str | None:
        if self.attempts < 1:
            return f"attempts={self.attempts!r}, and the first time counts as one"
        # Asked the other way round, so that a value that is no number is caught too.
        if not 0.0 <= self.first_s < inf:
            return f"first_s={self.first_s!r}, and a pause has 0 seconds or more"
        if not self.first_s <= self.longest_s < inf:
            return f"longest_s={self.longest_s!r}, and the longest pause cannot be shorter than the first one (first_s={self.first_s!r})"
        if not 0.0 <= self.jitter <= 1.0:
            return f"jitter={self.jitter!r}, and a share is between 0 and 1"
        kinds: tuple[object, ...] = self.permanent  # callers without a type checker may have written anything
        wrong = [kind for kind in kinds if not (isinstance(kind, type) and issubclass(kind, BaseException))]
        if wrong:
            return f"permanent names {wrong[0]!r}, which is no class of errors"
        return None

    def pause_s(self, failures: int, random: Random) -> float:
        """Return the pause after the given number of failures (1 or more), in seconds."""
        pause = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 1000))  # 2.0 ** 1024 raises
        return pause * (1.0 + self.jitter * (2.0 * random.random() - 1.0))

    def is_over(self, failures: int, error: BaseException) -> bool:
        """Tell whether there is no further attempt after this many failures, the last of which was this error."""
        return failures >= self.attempts or isinstance(error, self.permanent)
