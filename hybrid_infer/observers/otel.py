"""Events as OpenTelemetry spans; needs the extra ``otel`` (opentelemetry-api).

One span a call, one child a try, after the semantic conventions for generative AI (status: in
development), https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Spans are made when a
call, or its stream, has ended, with the times it had, in the context of the thread or task that ends
it. They hold no prompt and no answer. Where they go is the SDK's business; without one, nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from hybrid_infer.datatypes.route import Attempt, Route
from hybrid_infer.events import Answered, Asked, CallFailed, CallFinished, Event, StreamEnded
from hybrid_infer.routing.policy import LOCAL

try:
    from opentelemetry import trace
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
    from opentelemetry.util.types import AttributeValue
except ImportError as missing:
    raise ImportError(
        'OpenTelemetryObserver needs opentelemetry-api: pip install "hybrid-infer[otel]"'
    ) from missing

LOCAL_PROVIDER = "hybrid_infer.local"
NANOSECONDS = 1_000_000_000


class OpenTelemetryObserver:
    """Makes a span of each call, with a child for each of its tries.

    Args:
        tracer_provider: where spans go; None: the one that is set globally.
        wall_clock: the time in nanoseconds since the epoch, as spans have it.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer = trace.get_tracer("hybrid_infer", tracer_provider=tracer_provider)
        self._wall_clock = wall_clock

    def __call__(self, event: Event) -> None:
        """Make the spans of a call that has ended; a stream ends with its last chunk."""
        match event:
            case CallFinished(_, route, asked, answered) if not asked.is_stream:
                self._call(asked, route.attempts, route.latency_seconds, route, answered, None)
            case StreamEnded(_, route, asked, answered, error, _, seconds):
                self._call(asked, route.attempts, seconds, route, answered, error)
            case CallFailed(_, error, attempts, asked, seconds):
                self._call(asked, attempts, seconds, None, Answered(), error)
            case _:
                return

    def _call(
        self,
        asked: Asked,
        attempts: tuple[Attempt, ...],
        seconds: float,
        route: Route | None,
        answered: Answered,
        error: str | None,
    ) -> None:
        ended_at = self._wall_clock()
        started_at = ended_at - int(seconds * NANOSECONDS)
        span = self._tracer.start_span(
            _name(asked),
            kind=SpanKind.INTERNAL,  # it may be served without any network
            start_time=started_at,
            attributes=dict(_attributes(asked, route, answered)),
        )
        parent = trace.set_span_in_context(span)
        for attempt in attempts:
            began = started_at + int(attempt.started_after_seconds * NANOSECONDS)
            child = self._tracer.start_span(
                _name(asked),
                context=parent,
                kind=SpanKind.INTERNAL if attempt.target == LOCAL.name else SpanKind.CLIENT,
                start_time=began,
                attributes=dict(_attempt_attributes(asked, attempt)),
            )
            _end(child, began + int(attempt.latency_seconds * NANOSECONDS), attempt.error)
        _end(span, ended_at, error)


def _end(span: Span, at: int, error: str | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR, error)
    span.end(at)


def _name(asked: Asked) -> str:
    return f"{asked.operation} {_model(asked)}"


def _model(asked: Asked) -> str:
    """The alias without its task, which is the operation's name already; or the Hub id."""
    return asked.model.removeprefix(f"{asked.operation}/")


def _attributes(
    asked: Asked, route: Route | None, answered: Answered
) -> Iterator[tuple[str, AttributeValue]]:
    yield "gen_ai.operation.name", asked.operation
    yield "gen_ai.request.model", _model(asked)
    for name, value in asked.options:
        yield f"gen_ai.request.{name}", value
    if asked.num_texts is not None:
        yield "hybrid_infer.num_texts", asked.num_texts
    if route is not None:
        yield "gen_ai.provider.name", route.provider or LOCAL_PROVIDER
        yield "gen_ai.response.model", route.model
        yield "hybrid_infer.backend", route.backend
        yield "hybrid_infer.reason", str(route.reason)
        yield "hybrid_infer.verified", route.verified
        if route.revision is not None:
            yield "hybrid_infer.revision", route.revision
    if answered.finish_reasons:
        yield "gen_ai.response.finish_reasons", answered.finish_reasons
    for name, number in (
        ("gen_ai.usage.input_tokens", answered.input_tokens),
        ("gen_ai.usage.output_tokens", answered.output_tokens),
        ("gen_ai.embeddings.dimension.count", answered.dim),
    ):
        if number is not None:
            yield name, number


def _attempt_attributes(asked: Asked, attempt: Attempt) -> Iterator[tuple[str, AttributeValue]]:
    yield "gen_ai.operation.name", asked.operation
    yield "gen_ai.request.model", _model(asked)
    is_local = attempt.target == LOCAL.name
    yield "gen_ai.provider.name", LOCAL_PROVIDER if is_local else attempt.target
    if attempt.reason is not None:
        yield "hybrid_infer.reason", str(attempt.reason)
    if attempt.retry_after is not None:
        yield "hybrid_infer.retry_after_seconds", attempt.retry_after
