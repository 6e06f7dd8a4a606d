"""The same call on every surface: blocking, awaited, and as a stream of either kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fault_table.calls import OpenCall
from fault_table.table import Table, Variant
from fault_table.world import MAX_TOKENS, MODEL, PROMPT, TEXTS, Case
from hybrid_infer.datatypes.route import Route
from hybrid_infer.errors import HybridInferError, StreamInterruptedError

DEADLINE_SECONDS = 5.0
CALLERS: Mapping[str, tuple[str, ...]] = {
    "sync": ("sync",),
    "async": ("async",),
    "stream": ("stream", "async_stream"),
}


class Scene(NamedTuple):
    """One test: a variant, with a local copy or alone, on one surface by one of its callers."""

    variant: Variant
    mode: str
    surface: str
    caller: str

    @property
    def id(self) -> str:
        """Its name in a test's."""
        return f"{self.variant.id}-{self.mode}-{self.caller}"


def scenes(table: Table) -> list[Scene]:
    """All that the runner runs."""
    return [
        Scene(variant, mode, surface, caller)
        for variant in table.variants()
        for mode, surfaces in (("with_local", variant.with_local), ("alone", variant.alone))
        for surface in surfaces
        for caller in CALLERS[surface]
    ]


@dataclass
class Outcome:
    """What the caller got.

    Attributes:
        result: an `Embeddings` or a `ChatCompletion`; None for a stream.
        route: who served it at last.
        first_backend: who began a stream.
        text: of a chat.
        error: what was raised instead, or in the end.
    """

    result: Any = None
    route: Route | None = None
    first_backend: str | None = None
    text: str = ""
    finish_reasons: list[str] = field(default_factory=list)
    error: HybridInferError | None = None

    def take(self, chunk: Any) -> None:
        """Add a stream's chunk."""
        self.route = chunk.route
        self.first_backend = self.first_backend or chunk.route.backend
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            if choice.finish_reason is not None:
                self.finish_reasons.append(choice.finish_reason)


def call(caller: str, case: Case, *, route: str | None) -> Outcome:
    """One call of the case's variant.

    Args:
        caller: one of those in `CALLERS`.
        case: where.
        route: None, or ``"remote"`` to leave the local copy out.
    """
    options = {"model": MODEL, "deadline": DEADLINE_SECONDS, "route": route, **case.variant.options}
    if options["deadline"] == "none":
        del options["deadline"]
    ticket = case.calls.begin(options.get("deadline", 120.0))
    outcome = Outcome()
    try:
        _CALLS[caller](case, options, outcome)
    except HybridInferError as error:
        outcome.error = error
        ticket.end()
    else:
        ticket.end()
    _count_late_news(caller, case, outcome, ticket)
    return outcome


def _count_late_news(caller: str, case: Case, outcome: Outcome, ticket: OpenCall) -> None:
    """A second end that only a stream, or an observer, would show."""
    for _ in outcome.finish_reasons[1:]:
        ticket.end()
    if isinstance(outcome.error, StreamInterruptedError) and outcome.finish_reasons:
        ticket.end()
    ends = [e for e in case.events if type(e).__name__ in ("CallFinished", "CallFailed")]
    for _ in ends[1:]:
        ticket.end()
    if not ends:
        raise AssertionError(f"{caller}: no event tells of the call's end")
    case.events.clear()


def _asked(case: Case, options: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    if case.variant.task == "embeddings":
        return "embed", TEXTS, options
    return "chat_completion", PROMPT, _chat_options(options)


def _chat_options(options: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": MAX_TOKENS, "temperature": 0.0, **options}


def _keep(outcome: Outcome, result: Any) -> None:
    outcome.result, outcome.route = result, result.route
    outcome.first_backend = result.route.backend
    if hasattr(result, "choices"):
        outcome.text = result.choices[0].message.content


def _sync(case: Case, options: dict[str, Any], outcome: Outcome) -> None:
    method, content, options = _asked(case, options)
    _keep(outcome, getattr(case.sync, method)(content, **options))


def _async(case: Case, options: dict[str, Any], outcome: Outcome) -> None:
    method, content, options = _asked(case, options)
    _keep(outcome, case.world.runner.run(getattr(case.aio, method)(content, **options)))


def _stream(case: Case, options: dict[str, Any], outcome: Outcome) -> None:
    with case.sync.chat_completion(PROMPT, stream=True, **_chat_options(options)) as stream:
        try:
            for chunk in stream:
                outcome.take(chunk)
        finally:
            for _ in stream:
                raise AssertionError("a chunk came after the stream's end")


def _async_stream(case: Case, options: dict[str, Any], outcome: Outcome) -> None:
    async def consume() -> None:
        opened = await case.aio.chat_completion(PROMPT, stream=True, **_chat_options(options))
        async with opened as stream:
            try:
                async for chunk in stream:
                    outcome.take(chunk)
            finally:
                async for _ in stream:
                    raise AssertionError("a chunk came after the stream's end")

    case.world.runner.run(consume())


_CALLS: Mapping[str, Callable[[Case, dict[str, Any], Outcome], None]] = {
    "sync": _sync,
    "async": _async,
    "stream": _stream,
    "async_stream": _async_stream,
}


def status(caller: str, case: Case) -> list[dict[str, Any]]:
    """What the caller's client says is closed at the first remote."""
    client = case.aio if caller.startswith("async") else case.sync
    closed: list[dict[str, Any]] = client.status()["remotes"]["huggingface"]["closed"]
    return closed
