"""Several answers to one request (``n``): as many jobs, told as one stream."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

from hybrid_infer.datatypes.chat import ChatUsage
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.generation.job import Emit, End
from hybrid_infer.local.generation.options import options_of, seed_of_choice


class Answering(Protocol):
    """What a caller holds of an answer in the making."""

    @property
    def id(self) -> str:
        """The answer's identifier."""
        ...

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        ...

    @property
    def provenance(self) -> Provenance:
        """The loaded weights."""
        ...

    @property
    def deadline(self) -> Deadline:
        """When it must be done."""
        ...

    def abandon(self) -> None:
        """The caller has gone: computing stops within one step."""
        ...


class Engine(Protocol):
    """Where requests for one answer each are submitted."""

    def submit(self, request: ChatRequest, deadline: Deadline, emit: Emit) -> Answering:
        """Queue a request; `emit` receives its parts, then one `End`."""
        ...


def submit_all(engine: Engine, request: ChatRequest, deadline: Deadline, emit: Emit) -> Answering:
    """Submit a request, as one job for each answer that it wants.

    Args:
        engine: where to submit.
        request: what to answer.
        deadline: of all answers together; renewed by every token.
        emit: receives the parts of all answers as they come, one usage, and one `End`.

    Raises:
        OverloadedError: the queue is full.
        EngineClosedError: the engine is closed.
    """
    count = options_of(request).n
    if count == 1:
        return engine.submit(request, deadline, emit)
    choices = _Choices(count, emit)
    passthrough = {name: value for name, value in request.passthrough.items() if name != "n"}
    try:
        for index in range(count):
            seed = seed_of_choice(request.seed, index)
            one = replace(request, seed=seed, passthrough=passthrough)
            choices.add(engine.submit(one, deadline, choices.emitter(index)))
    except HybridInferError:
        choices.abandon()
        raise
    return choices


class _Choices:
    """The jobs of one request.

    Args:
        count: how many there are.
        emit: receives what they say; never called by two threads at once.
    """

    def __init__(self, count: int, emit: Emit) -> None:
        self._jobs: list[Answering] = []
        self._emit = emit
        self._num_left = count
        self._usage = ChatUsage(0, 0)
        # A decoding thread, a preparing one, and one that closes the engine may all have news.
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """The identifier of all answers."""
        return self._jobs[0].id

    @property
    def created(self) -> int:
        """Wall-clock seconds since the epoch."""
        return self._jobs[0].created

    @property
    def provenance(self) -> Provenance:
        """The loaded weights."""
        return self._jobs[0].provenance

    @property
    def deadline(self) -> Deadline:
        """When all of them must be done."""
        return self._jobs[0].deadline

    def add(self, job: Answering) -> None:
        """One more job; another may have failed already."""
        with self._lock:
            self._jobs.append(job)
            if not self._num_left:
                job.abandon()

    def abandon(self) -> None:
        """The caller has gone: computing stops within one step."""
        for job in self._jobs:
            job.abandon()

    def emitter(self, index: int) -> Emit:
        """Where the job of one answer emits."""

        def emit(item: ChatPart | End) -> None:
            with self._lock:
                if self._num_left:
                    self._take(index, item)

        return emit

    def _take(self, index: int, item: ChatPart | End) -> None:
        if isinstance(item, End):
            self._num_left = 0 if item.error is not None else self._num_left - 1
            if item.error is not None:
                self.abandon()
            elif not self._num_left:
                self._emit(ChatPart((), self._usage))
            if not self._num_left:
                self._emit(item)
        elif item.usage is not None:
            # The prompt is the same for all, and counts once.
            answered = (self._usage.completion_tokens or 0) + (item.usage.completion_tokens or 0)
            self._usage = ChatUsage(item.usage.prompt_tokens, answered)
        else:
            choices = tuple(replace(choice, index=index) for choice in item.choices)
            self._emit(replace(item, choices=choices))
