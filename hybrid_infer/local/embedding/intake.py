"""Requests that are not tokenised, or not to their end."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.crowd import Owner
from hybrid_infer.local.embedding.job import EmbedJob, within
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
        self._queue: SimpleQueue[EmbedJob | None] = SimpleQueue()
        self._first: list[EmbedJob | None] = []

    def __bool__(self) -> bool:
        return bool(self._first) or not self._queue.empty()

    def post(self, job: EmbedJob) -> None:
        """Leave a request, from any thread."""
        self._queue.put(job)

    def nudge(self) -> None:
        """Have the thread look up once, from any thread."""
        self._queue.put(None)

    def wait(self) -> None:
        """Wait until there is something to take, or for a nudge."""
        if not self._first:
            self._first.append(self._queue.get())

    def take(self) -> list[EmbedJob]:
        """All that has come."""
        found, self._first = self._first, []
        while not self._queue.empty():  # only this thread takes
            found.append(self._queue.get_nowait())
        return [job for job in found if job is not None]


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
        """Whether short requests are to be tokenised by those who compute."""
        return self._lanes_tokenize and self._is_short_due

    @property
    def _is_short_due(self) -> bool:
        """Not as long as enough is: however many come, those who compute must get to that."""
        return bool(self._short) and self._window.tokens < self._tokens_ahead()

    def take_short(self) -> list[EmbedJob]:
        """The short requests that one who computes is to tokenise together; they leave."""
        return self._take_short() if self._lanes_tokenize else []

    def take_for_thread(self) -> list[EmbedJob]:
        """What the thread is to tokenise together, of what was here or has come; it leaves."""
        for job in self.inbox.take():
            self.add(job)
        return [*([] if self._lanes_tokenize else self._take_short()), *self._take_hungry()]

    def _take_short(self) -> list[EmbedJob]:
        if not self._is_short_due:
            return []
        taken = within(self._short, self._most_characters)
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
        taken = within(hungry, CHARACTERS_PER_SLICE)
        for job in taken:
            del self._long[job]
        return taken
