"""Requests that are not tokenised, or not to their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.crowd import Owner
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.texts import (
    CHARACTERS_PER_SLICE,
    MOST_CHARACTERS_PER_SLICE,
    Slice,
)


class Inbox:
    """Requests on their way to the one thread that waits for them.

    Whoever posts never waits for a lock. A thread that is woken may get a lock before it gets the
    interpreter's; then an event loop that posts a thousand requests would wait for it, be waited for,
    and so hand them over one by one.
    """

    def __init__(self) -> None:
        self._jobs: deque[EmbedJob] = deque()
        self._signals: SimpleQueue[None] = SimpleQueue()

    def __bool__(self) -> bool:
        """Whether a request has come; a nudge is none, and whoever waits for requests must know."""
        return bool(self._jobs)

    def post(self, job: EmbedJob) -> None:
        """Leave a request, from any thread."""
        self._jobs.append(job)
        self._signals.put(None)

    def nudge(self) -> None:
        """Have the thread look up once, from any thread."""
        self._signals.put(None)

    def wait(self) -> None:
        """Wait for a request or a nudge that came since the last look."""
        self._signals.get()

    def take(self) -> list[EmbedJob]:
        """All that has come. Signals go first: that of a request that comes meanwhile must stay."""
        while not self._signals.empty():  # only this thread takes
            self._signals.get_nowait()
        found = []
        while self._jobs:
            found.append(self._jobs.popleft())
        return found


class Intake:
    """Requests whose texts wait to be tokenised, in turn; whoever uses it holds a lock.

    Short requests come in crowds, and all of them are tokenised together: by whoever computes next, or
    by a thread that does nothing else. That tokenises a slice of a long one at a time, ahead of those
    who compute.

    Args:
        window: holds what is tokenised.
        tokens_ahead: how many tokens may wait there before they are needed.
        lanes_tokenize: whether those who compute tokenise the short ones; they take fewer at a time.

    Attributes:
        inbox: how requests get to the thread.
    """

    def __init__(
        self,
        window: Window[Owner, Slice],
        tokens_ahead: Callable[[], int],
        *,
        lanes_tokenize: bool,
    ) -> None:
        self._window, self._tokens_ahead = window, tokens_ahead
        self._lanes_tokenize = lanes_tokenize
        self._most_characters = (
            CHARACTERS_PER_SLICE if lanes_tokenize else MOST_CHARACTERS_PER_SLICE
        )
        self.inbox = Inbox()
        self._short: dict[EmbedJob, None] = {}
        self._long: dict[EmbedJob, None] = {}

    @property
    def needs_thread(self) -> bool:
        """Whether something waits for the thread that only tokenises."""
        is_due = self._long or (self._short and not self._lanes_tokenize)
        return bool(is_due or self.inbox)

    def is_for_lanes(self, job: EmbedJob) -> bool:
        """Whether a request waits for those who compute."""
        return self._lanes_tokenize and job.texts.is_short

    def add(self, job: EmbedJob) -> None:
        """Put a request, or what is left of it, at the end."""
        if job.texts.is_short:
            self._short[job] = None
        else:
            self._long[job] = None

    def discard(self, job: EmbedJob) -> bool:
        """Forget a request; whether it waited for the thread."""
        was_short = self._short.pop(job, job) is None
        return self._long.pop(job, job) is None or (was_short and not self._lanes_tokenize)

    @property
    def is_short_due(self) -> bool:
        """Whether those who compute are to tokenise short requests before they do anything else.

        Not as long as enough is tokenised: however many come, they must get to that.
        """
        return self._lanes_tokenize and bool(self._short) and not self._has_enough

    @property
    def _has_enough(self) -> bool:
        return self._window.tokens >= self._tokens_ahead()

    def take_short(self, *, has_tokenized: bool) -> list[EmbedJob]:
        """The short requests that one who computes is to tokenise together; they leave.

        Args:
            has_tokenized: whether that one did so last. Else it does although enough is tokenised: those
                who are behind large requests must get into the window to be fairly served.
        """
        if not self._lanes_tokenize or (has_tokenized and self._has_enough):
            return []
        return self._take_short()

    def take_for_thread(self) -> list[EmbedJob]:
        """What the thread is to tokenise together, of what was here or has come; it leaves."""
        for job in self.inbox.take():
            self.add(job)
        return [*([] if self._lanes_tokenize else self._take_short()), *self._take_hungry()]

    def _take_short(self) -> list[EmbedJob]:
        taken = _within(self._short, self._most_characters)
        if len(taken) == len(self._short):  # as a rule
            self._short = {}
        else:
            for job in taken:
                del self._short[job]
        return taken

    def _take_hungry(self) -> list[EmbedJob]:
        """The long requests that are not tokenised far enough ahead, as many as one slice holds."""
        if not self._long:
            return []
        ahead = self._tokens_ahead() // len(self._long)
        hungry = (job for job in self._long if self._window.tokens_of(job) <= ahead)
        taken = _within(hungry, CHARACTERS_PER_SLICE)
        for job in taken:
            del self._long[job]
        return taken


def _within(jobs: Iterable[EmbedJob], most_characters: int) -> list[EmbedJob]:
    """The first of `jobs`, and those that follow as long as all their texts are one slice."""
    found: list[EmbedJob] = []
    characters = 0
    for job in jobs:
        characters += job.texts.num_characters
        if found and characters > most_characters:
            break
        found.append(job)
    return found
