"""Requests that are not tokenised, or not to their end."""

from __future__ import annotations

from collections.abc import Callable

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.job import EmbedJob, within_a_slice
from hybrid_infer.local.embedding.texts import Slice


class Intake:
    """Requests whose texts wait to be tokenised, in turn; whoever uses it holds a lock.

    Short requests come in crowds, and whoever computes next tokenises all of them together. Of a long
    one a slice is tokenised at a time, by a thread that does nothing else, ahead of those who compute.

    Args:
        window: holds what is tokenised.
        tokens_ahead: how many tokens may wait there before they are needed.
        lanes_tokenize: whether those who compute tokenise, too; else all requests are long ones.
    """

    def __init__(
        self,
        window: Window[EmbedJob, Slice],
        tokens_ahead: Callable[[], int],
        *,
        lanes_tokenize: bool,
    ) -> None:
        self._window, self._tokens_ahead = window, tokens_ahead
        self._lanes_tokenize = lanes_tokenize
        self._short: dict[EmbedJob, None] = {}
        self._long: dict[EmbedJob, None] = {}

    @property
    def has_long(self) -> bool:
        """Whether a slice of a long request waits."""
        return bool(self._long)

    def is_short(self, job: EmbedJob) -> bool:
        """Whether a request waits for those who compute."""
        return self._lanes_tokenize and job.texts.is_short

    def add(self, job: EmbedJob) -> None:
        """Put a request, or what is left of it, at the end."""
        if self.is_short(job):
            self._short[job] = None
        else:
            self._long[job] = None

    def discard(self, job: EmbedJob) -> bool:
        """Forget a request; whether it was a long one that waited."""
        self._short.pop(job, None)
        return self._long.pop(job, job) is None

    @property
    def is_short_due(self) -> bool:
        """Whether short requests are to be tokenised.

        Not as long as enough is: however many come, those who compute must get to that.
        """
        return bool(self._short) and self._window.tokens < self._tokens_ahead()

    def take_short(self) -> list[EmbedJob]:
        """The short requests that are to be tokenised together; they leave."""
        if not self.is_short_due:
            return []
        taken = within_a_slice(self._short)
        for job in taken:
            del self._short[job]
        return taken

    def hungry(self) -> list[EmbedJob]:
        """The long requests that are not tokenised far enough ahead, as many as one slice holds."""
        if not self._long:
            return []
        ahead = self._tokens_ahead() // len(self._long)
        return within_a_slice(job for job in self._long if self._window.tokens_of(job) <= ahead)
