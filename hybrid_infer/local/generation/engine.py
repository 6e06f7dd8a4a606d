"""The chat engine: one loaded model, one compute thread, one decoding loop that can be left at any step."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch

from hybrid_infer.datatypes.chat import ChatDelta, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.generation.healing import Healer, Seam, seam
from hybrid_infer.local.generation.prompting import Prompter, room_left
from hybrid_infer.local.generation.sampling import SamplingOptions, sample
from hybrid_infer.local.generation.streaming import Detokenizer, StopMatcher
from hybrid_infer.local.placement import Placement
from hybrid_infer.local.quiet import quiet_loading
from hybrid_infer.local.translation import local_errors
from hybrid_infer.local.waiting import too_late
from hybrid_infer.local.worker import Worker
from hybrid_infer.snapshots.facts import read_json

MAX_JOBS = 256


@dataclass(frozen=True, slots=True)
class End:
    """The last thing a job emits: nothing follows, or `error` says what broke it."""

    error: HybridInferError | None = None


Emit = Callable[[ChatPart | End], None]


class ChatJob:
    """One answer in the making.

    Args:
        engine: computes it.
        request: what to answer.
        deadline: when it must be done; renewed by every token.
        emit: receives parts, then one `End`; called on the engine's thread.
    """

    def __init__(
        self, engine: ChatEngine, request: ChatRequest, deadline: Deadline, emit: Emit
    ) -> None:
        self._engine = engine
        self.request = request
        self.deadline = deadline
        self._emit = emit
        self._abandoned = Event()
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.provenance = engine.provenance

    def abandon(self) -> None:
        """The caller has gone: computing stops within one step."""
        self._abandoned.set()

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return self._abandoned.is_set()

    def run(self) -> None:
        """Compute and deliver; on the engine's thread."""
        if self.is_abandoned:
            return
        try:
            with local_errors("generation"):
                for part in self._engine.parts(self):
                    self._emit(part)
        except HybridInferError as error:
            self.fail(error)
            return
        self._emit(End())

    def fail(self, error: HybridInferError) -> None:
        """Deliver an error."""
        self._emit(End(error))


class ChatEngine:
    """One loaded chat model.

    Args:
        path: the snapshot's folder.
        prompter: its tokenizer and template.
        placement: device and dtype.
        provenance: what to say of the weights.
    """

    def __init__(
        self, path: Path, prompter: Prompter, placement: Placement, provenance: Provenance
    ) -> None:
        from transformers import AutoModelForCausalLM

        self._prompter = prompter
        self.provenance = provenance
        self._device = torch.device(placement.device)
        with quiet_loading():
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(path),
                dtype=getattr(torch, placement.dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        self._model = model.to(self._device).eval()
        self._ends = _end_tokens(path)
        self._worker = Worker(f"hybrid-infer-chat-{provenance.model}", MAX_JOBS)

    @property
    def is_closed(self) -> bool:
        """Whether requests are refused."""
        return self._worker.is_closed

    def submit(self, request: ChatRequest, deadline: Deadline, emit: Emit) -> ChatJob:
        """Queue a request; `emit` receives its parts.

        Raises:
            OverloadedError: the queue is full.
            EngineClosedError: the engine is closed.
        """
        job = ChatJob(self, request, deadline, emit)
        self._worker.submit(job)
        return job

    def parts(self, job: ChatJob) -> Iterator[ChatPart]:
        """Generate an answer, part by part.

        Raises:
            HybridInferError: the prompt does not fit, or time ran out.
        """
        request = job.request
        start = seam(self._prompter, self._prompter.encode(request.messages), request.answer_so_far)
        most = room_left(
            len(start.prompt),
            request.max_tokens,
            self._prompter.context_length,
            may_shrink=request.max_tokens_is_default,
            name=request.spec.name,
        )
        yield _part(ChatDelta(role="assistant", content=""))
        text = Detokenizer(self._prompter.decode, start.kept, request.answer_so_far)
        stops = StopMatcher(request.stop, request.answer_so_far)
        ended, num_tokens = False, len(start.kept)
        for token in self._tokens(start, most - num_tokens, request):
            if job.is_abandoned or job.deadline.expired():
                raise too_late(job.deadline)
            job.deadline.renew()
            num_tokens += 1
            ended = token in self._ends
            if not ended and (out := stops.push(text.push(token))):
                yield _part(ChatDelta(content=out))
            if ended or stops.has_stopped():
                break
        if not stops.has_stopped() and (rest := stops.push(text.flush()) + stops.flush()):
            yield _part(ChatDelta(content=rest))
        finish_reason = "stop" if ended or stops.has_stopped() else "length"
        yield _part(ChatDelta(), finish_reason)
        yield ChatPart((), ChatUsage(len(start.prompt), max(num_tokens, start.num_tokens)))

    def _tokens(self, start: Seam, most: int, request: ChatRequest) -> Iterator[int]:
        """Prefill, then one token a step; the cache dies with the iterator."""
        options = SamplingOptions(
            1.0 if request.temperature is None else request.temperature,
            request.top_p,
            request.top_k,
        )
        generator = torch.Generator(device=self._device)
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        healer = None
        if start.piece:
            healer = Healer(self._prompter.pieces, self._prompter.special_tokens, start.piece)
        cache: Any = None
        ids = torch.tensor([start.prompt + start.kept], device=self._device)
        for _ in range(most):
            with torch.inference_mode():
                output = self._model(
                    input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                logits = output.logits[0, -1]
                token = sample(healer.masked(logits) if healer else logits, options, generator)
            if healer:
                healer.push(token)
            cache = output.past_key_values
            yield token
            ids = torch.tensor([[token]], device=self._device)

    def close(self) -> None:
        """Refuse what waits; the running answer ends within a step of being abandoned."""
        self._worker.close()


def _part(delta: ChatDelta, finish_reason: str | None = None) -> ChatPart:
    return ChatPart((ChunkChoice(0, delta, finish_reason),))


def _end_tokens(path: Path) -> frozenset[int]:
    """The tokens that end an answer, from generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            ends = read_json(path / name).get("eos_token_id")
            if ends is not None:
                return frozenset(ends if isinstance(ends, list) else [ends])
    return frozenset()
