"""Short requests of many callers that are one as long as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid_infer.local.embedding.batching import Window
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.shares import Share
from hybrid_infer.local.embedding.texts import Slice

LeaveAll = Callable[[Sequence[EmbedJob]], None]


class Crowd:
    """Requests of one text each that were tokenised together.

    A thousand callers' requests pass three threads, and whatever is done for each of them there is done
    under one interpreter's lock. So they are one owner in the window, one share of a batch and one
    departure, and only an answer is each one's own.

    Args:
        jobs: the requests, in order of arrival; all with the same `normalize`.
        leave_all: has requests that have just got their answers leave the queue, before they are told.
    """

    __slots__ = ("_jobs", "_leave_all", "normalize")

    def __init__(self, jobs: Sequence[EmbedJob], leave_all: LeaveAll) -> None:
        self._jobs, self._leave_all = jobs, leave_all
        self.normalize = jobs[0].normalize

    def members(self, places: Sequence[int]) -> Sequence[EmbedJob]:
        """Whose sequences those at `places` are: one for each."""
        if isinstance(places, range):
            return self._jobs[places.start : places.stop]
        return [self._jobs[place] for place in places]

    def put(self, source: Slice, places: Sequence[int], rows: NDArray[np.float32]) -> None:
        """Give requests their answers; see `EmbedJob.put`."""
        lengths, jobs = source.tokens.lengths, self.members(places)
        replies = [
            job.reply_of_one(rows[number : number + 1], lengths[place])
            for number, (place, job) in enumerate(zip(places, jobs, strict=True))
        ]
        ended = []
        for job, reply in zip(jobs, replies, strict=True):
            callbacks = job.settle(reply)
            if callbacks is not None:
                job.queue = None
                ended.append((job, callbacks))
        self._leave_all([job for job, _ in ended])
        _tell_all(ended)


def _tell_all(ended: Sequence[tuple[EmbedJob, tuple[Callable[[EmbedJob], object], ...]]]) -> None:
    """Call all callbacks, whatever one of them does."""
    errors = []
    for job, callbacks in ended:
        for callback in callbacks:
            try:
                callback(job)
            except BaseException as error:  # noqa: BLE001 - the others must be told; raised below
                errors.append(error)
    if errors:
        raise errors[0]


Owner: TypeAlias = "EmbedJob | Crowd"  # of sequences in the window
Batch: TypeAlias = "list[Share[Owner, Slice]]"


def take_wanted(
    window: Window[Owner, Slice], token_budget: int, max_items: int, late: list[EmbedJob]
) -> Batch:
    """The next batch for whoever still waits; empty if nobody does.

    Args:
        window: what waits.
        token_budget: see `Window.take`.
        max_items: see `Window.take`.
        late: gets those whose deadline is over; they leave, like those that have their answers.
    """

    def is_wanted(job: EmbedJob) -> bool:
        if job.done():
            return False
        if job.deadline.expired():
            late.append(job)
            return False
        return True

    def has_wanted(owner: Owner) -> bool:
        return isinstance(owner, Crowd) or is_wanted(owner)

    batch: Batch = []
    while not batch and window:  # a batch may be of a crowd that has left
        taken = window.take(token_budget, max_items, has_wanted)
        batch = part_of(taken, is_wanted)
    return batch


def part_of(batch: Batch, is_wanted: Callable[[EmbedJob], bool]) -> Batch:
    """What of a batch belongs to requests that are wanted."""
    return list(filter(len, (_part_of(share, is_wanted) for share in batch)))


def _part_of(
    share: Share[Owner, Slice], is_wanted: Callable[[EmbedJob], bool]
) -> Share[Owner, Slice]:
    wanted = list(map(is_wanted, share.owner.members(share.places)))
    return share.of(wanted if len(wanted) == len(share) else wanted * len(share))


def one_by_one(batch: Batch) -> Iterator[Share[Owner, Slice]]:
    """What each request has of a batch."""
    for share in batch:
        yield from share.each() if isinstance(share.owner, Crowd) else (share,)
