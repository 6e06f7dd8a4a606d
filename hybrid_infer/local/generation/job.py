"""One answer in the making: from a request to tokens, and from tokens to parts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hybrid_infer.datatypes.chat import ChatDelta, ChatUsage, ChunkChoice
from hybrid_infer.datatypes.deadline import Deadline
from hybrid_infer.datatypes.replies import ChatPart, Provenance
from hybrid_infer.datatypes.requests import ChatRequest
from hybrid_infer.datatypes.timings import TokenTimer
from hybrid_infer.errors import HybridInferError, InvalidRequestError
from hybrid_infer.local.generation.choosing import Chooser
from hybrid_infer.local.generation.healing import Seam, seam
from hybrid_infer.local.generation.logprobs import Entry, EntryQueue, content_of
from hybrid_infer.local.generation.options import options_of
from hybrid_infer.local.generation.prompting import Prompter, room_left
from hybrid_infer.local.generation.streaming import Detokenizer, StopMatcher


@dataclass(frozen=True, slots=True)
class End:
    """The last thing a job emits: nothing follows, or `error` says what broke it."""

    error: HybridInferError | None = None


Emit = Callable[[ChatPart | End], None]

# To which a default shrinks for want of memory; for want of room in the window, to any number.
LEAST_NEW_TOKENS = 256


class ChatJob:
    """One request on its way through the decoding loop.

    Args:
        request: what to answer.
        deadline: when it must be done; renewed by every token.
        provenance: of the weights that answer.
        emit: receives parts, then one `End`; called on the engine's threads.

    Attributes:
        tokens: what the decoder must read before the first new token.
        max_new_tokens: new tokens at most.
    """

    def __init__(
        self, request: ChatRequest, deadline: Deadline, provenance: Provenance, emit: Emit
    ) -> None:
        self.request, self.deadline, self.provenance = request, deadline, provenance
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.tokens: list[int] = []
        self.max_new_tokens = 0
        self._emit = emit
        self._timer = TokenTimer()
        self._is_abandoned = False  # not an Event: a fork may copy its lock while it is held
        self._has_ended = False
        self._num_new = 0

    def abandon(self) -> None:
        """The caller has gone: computing stops within one step."""
        self._is_abandoned = True

    @property
    def is_done(self) -> bool:
        """Whether nobody waits for anything more."""
        return self._has_ended or self._is_abandoned

    @property
    def places(self) -> int:
        """Tokens that it may hold in the end."""
        return len(self.tokens) + self.max_new_tokens

    def prepare(
        self, prompter: Prompter, ends: Collection[int], device: torch.device, most_places: int
    ) -> None:
        """Tokenise the prompt, and compile what the answer must obey.

        Args:
            prompter: the model's tokenizer and template.
            ends: the tokens that end an answer.
            device: of the logits.
            most_places: tokens of prompt and answer that there is memory for.

        Raises:
            HybridInferError: the template refuses it or makes nothing of it, it does not fit, or a
                grammar is too large.
        """
        request = self.request
        options = options_of(request)
        prompt = prompter.encode(request.messages)
        if not prompt:  # no decoder has anything to say behind nothing
            raise InvalidRequestError("the prompt has no tokens", argument="messages")
        start = seam(prompter, prompt, request.answer_so_far)
        room = self._room(len(prompt), options.max_tokens, prompter.context_length, most_places)
        self._start: Seam = start
        self._ends = ends
        self.tokens = start.prompt + start.kept
        self.max_new_tokens = max(0, room - len(start.kept))
        self._text = Detokenizer(prompter.decode, start.kept, request.answer_so_far)
        self._stops = StopMatcher(options.stop, request.answer_so_far)
        options = replace(options, max_tokens=self.max_new_tokens)
        self._chooser = Chooser(options, prompter, start, ends, device)
        self._entries = EntryQueue() if options.logprobs else None

    def _room(self, num_tokens: int, asked: int, context_length: int, most_places: int) -> int:
        """New tokens that may be generated; a mere default makes do with the memory there is."""
        may_shrink = self.request.max_tokens_is_default
        name = self.request.spec.name
        room = room_left(num_tokens, asked, context_length, may_shrink=may_shrink, name=name)
        if not may_shrink:
            return room
        # Where so few do not fit, the schedule refuses it, with all numbers, and another target may serve.
        return min(room, max(LEAST_NEW_TOKENS, most_places - num_tokens))

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken, so that a batch can choose at once."""
        return self._chooser.is_greedy

    def choose(self, logits: Tensor) -> int:
        """The next token.

        Args:
            logits: float32 ``(vocabulary,)``.

        Raises:
            LocalEngineError: the grammar of ``response_format`` has become too costly.
        """
        return self._chooser.choose(logits)

    def begin(self) -> None:
        """The answer begins."""
        self._emit(_part(ChatDelta(role="assistant", content="")))

    def take(self, token: int) -> bool:
        """Add a token to the answer; whether it was the last one."""
        self.deadline.renew()
        self._timer.tick()
        self._num_new += 1
        has_ended = token in self._ends
        if not has_ended:
            self._say(token)
        if has_ended or self._stops.has_stopped() or self._chooser.is_complete:
            self.finish("stop")
        elif self._num_new >= self.max_new_tokens:
            self.finish("length")
        return self._has_ended

    def _say(self, token: int) -> None:
        """Emit what `token` adds to the text that may go out."""
        text = self._text.push(token)
        out = self._stops.push(text)
        entries: list[Entry] = []
        if self._entries is not None and self._chooser.entry is not None:
            self._entries.push(self._chooser.entry)
            self._entries.spelled(text)
            entries = self._entries.released(out)
        if out:
            self._emit(_part(ChatDelta(content=out), logprobs=content_of(entries)))

    def finish(self, finish_reason: str) -> None:
        """Deliver what is held back, the reason, the timings and the usage."""
        stops, start = self._stops, self._start
        last, rest = "", ""
        if not stops.has_stopped():
            last = self._text.flush()
            rest = stops.push(last)
        if stops.has_stopped():  # in what was held back
            finish_reason = "stop"
        else:
            rest += stops.flush()
        entries: list[Entry] = []
        if self._entries is not None:
            self._entries.spelled(last)
            entries = self._entries.released(rest)
            entries += self._entries.rest(is_cut=stops.has_stopped())
        if rest or entries:
            self._emit(_part(ChatDelta(content=rest), logprobs=content_of(entries)))
        end = ChunkChoice(0, ChatDelta(), finish_reason)
        self._emit(ChatPart((end,), timings=self._timer.timings))
        num_tokens = max(len(start.kept) + self._num_new, start.num_tokens)
        self._emit(ChatPart((), ChatUsage(len(start.prompt), num_tokens)))
        self._end(End())

    def fail(self, error: HybridInferError) -> None:
        """Deliver an error, unless all is delivered."""
        if not self._has_ended:
            self._end(End(error))

    def _end(self, end: End) -> None:
        self._has_ended = True
        self._emit(end)


def _part(delta: ChatDelta, logprobs: dict[str, Any] | None = None) -> ChatPart:
    return ChatPart((ChunkChoice(0, delta, None, logprobs),))
