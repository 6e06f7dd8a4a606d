"""The chat engine: one loaded model that many callers share."""

from __future__ import annotations

import time
from pathlib import Path

from hybrid_infer.datatypes.deadline import Clock, Deadline
from hybrid_infer.datatypes.replies import Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.local.generation.decoders import Decoder
from hybrid_infer.local.generation.job import ChatJob, Emit
from hybrid_infer.local.generation.loop import DecodeLoop
from hybrid_infer.local.generation.prompting import Prompter
from hybrid_infer.local.generation.scheduling import Limits, most_places
from hybrid_infer.snapshots.facts import read_json


class ChatEngine:
    """One loaded chat model.

    Args:
        decoder: computes logits; used by one thread.
        prompter: its tokenizer and template.
        ends: the tokens that end an answer.
        provenance: what to say of the weights.
        limits: what may be computed and wait at the same time.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompter: Prompter,
        ends: frozenset[int],
        provenance: Provenance,
        *,
        limits: Limits | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.provenance = provenance
        limits = limits or Limits()
        places = most_places(limits.cache_tokens)
        self._loop = DecodeLoop(
            f"hybrid-infer-chat-{provenance.model}",
            decoder,
            lambda job: job.prepare(prompter, ends, decoder.device, places),
            limits=limits,
            clock=clock,
        )

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._loop.is_closed

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being computed, or waits."""
        return self._loop.is_busy

    @property
    def computed_seconds(self) -> float | None:
        """How long ago it last computed anything; None: it has not yet."""
        return self._loop.computed_seconds

    def submit(self, request: ChatRequest, deadline: Deadline, emit: Emit) -> ChatJob:
        """Queue a request; `emit` receives its parts, then one `End`.

        Raises:
            OverloadedError: the queue is full.
            EngineClosedError: the engine is closed.
        """
        job = ChatJob(request, deadline, self.provenance, emit)
        self._loop.submit(job)
        return job

    def close(self) -> None:
        """Refuse what waits; what is being computed ends within a step."""
        self._loop.close()


def end_tokens(path: Path) -> frozenset[int]:
    """The tokens that end an answer, from generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            ends = read_json(path / name).get("eos_token_id")
            if ends is not None:
                return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()
