"""Events as Prometheus metrics; needs the extra ``metrics`` (prometheus-client).

Names and units follow https://prometheus.io/docs/practices/naming/. Labels hold aliases, targets and
reasons, all of them from closed sets: never a text, and never a Hub id that a caller made up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from hybrid_infer.datatypes.route import BackendKind
from hybrid_infer.events import (
    Answered,
    Asked,
    AttemptFinished,
    BatchComputed,
    CacheLookedUp,
    CallFailed,
    CallFinished,
    Event,
    FellBack,
    ModelLoaded,
    ModelUnloaded,
    RemoteQuarantined,
    Retried,
    StreamEnded,
    TargetClosed,
    TargetReopened,
)

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as missing:
    raise ImportError(
        'PrometheusObserver needs prometheus-client: pip install "hybrid-infer[metrics]"'
    ) from missing

# Durations grow by half, sizes double, as those of text-embeddings-inference do.
SECONDS = tuple(0.001 * 1.5**power for power in range(30))
SIZES = tuple(float(2**power) for power in range(15))
RATIOS = (0.0, *(2.0**-power for power in range(7, 0, -1)), 0.75)
OTHER_MODELS = "other"


class _Maker:
    """Makes metrics, of each the function from labels to the one to count in, which remembers.

    Finding it costs the library more than counting, on the way of every call.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        metric = Counter(f"hybrid_infer_{name}", text, labels, registry=self._registry)
        return cache(metric.labels)

    def gauge(self, name: str, text: str, *labels: str) -> Callable[..., Gauge]:
        metric = Gauge(f"hybrid_infer_{name}", text, labels, registry=self._registry)
        return cache(metric.labels)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Callable[..., Histogram]:
        metric = Histogram(
            f"hybrid_infer_{name}", text, labels, registry=self._registry, buckets=buckets
        )
        return cache(metric.labels)


class PrometheusObserver:
    """Counts calls, fallbacks, retries, tokens and batches.

    One observer may serve several clients; a second one needs a registry of its own.

    Args:
        registry: where the metrics are registered; None: the library's default one.

    Raises:
        ValueError: the registry has these metrics already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        make = _Maker(REGISTRY if registry is None else registry)
        self._make_call_metrics(make)
        self._make_local_metrics(make)
        self._by_kind: dict[type[Event], Callable[[Any], None]] = {
            CallFinished: self._call_finished,
            StreamEnded: self._stream_ended,
            CallFailed: self._call_failed,
            FellBack: self._fell_back,
            AttemptFinished: self._attempt_finished,
            Retried: self._retried,
            CacheLookedUp: self._cache_looked_up,
            ModelLoaded: self._model_loaded,
            ModelUnloaded: self._model_unloaded,
            BatchComputed: self._batch_computed,
            TargetClosed: self._target_closed,
            RemoteQuarantined: self._target_closed,
            TargetReopened: self._target_reopened,
        }
        self.kinds = frozenset(self._by_kind)

    def _make_call_metrics(self, make: _Maker) -> None:
        call, model = ("operation", "model", "backend"), ("operation", "model")
        self._requests = make.counter("requests_total", "Calls that ended", *call, "outcome")
        self._seconds = make.histogram(
            "request_duration_seconds", "From a call's start to its end", *call
        )
        self._first = make.histogram(
            "time_to_first_token_seconds", "From a stream's start to its first chunk", *call
        )
        self._tokens = make.counter("tokens_total", "Tokens read and written", *call, "type")
        self._fallbacks = make.counter(
            "fallbacks_total",
            "Calls served by another target than the first choice",
            *("model", "from_backend", "to_backend", "reason"),
        )
        self._attempts = make.counter(
            "attempts_total", "Tries at each target of calls that ended", *call, "outcome"
        )
        self._retries = make.counter(
            "retries_total", "Tries at a target that had failed the call", *call, "reason"
        )
        self._hits = make.counter("cache_hits_total", "Entries that the cache knew", *model)
        self._misses = make.counter("cache_misses_total", "Entries that it did not know", *model)

    def _make_local_metrics(self, make: _Maker) -> None:
        left_alone = "1 while a remote is left alone, until it has served again"
        self._breaker = make.gauge("breaker_state", left_alone, "model", "backend")
        self._depth = make.gauge("queue_depth", "Texts waiting at the last batch", "model")
        self._loads = make.histogram("model_load_seconds", "Loading a local copy", "model")
        self._loaded = make.gauge("models_loaded", "Local copies in memory", "model")
        self._waits = make.histogram(
            "queue_wait_seconds", "From a call to the start of its first batch", "model"
        )
        self._tokenize = make.histogram(
            "tokenize_seconds", "Tokenising between one batch and the next", "model"
        )
        self._forward = make.histogram("forward_seconds", "Computing one local batch", "model")
        self._rows = make.histogram("batch_rows", "Texts of a batch", "model", buckets=SIZES)
        self._batch_tokens = make.histogram(
            "batch_tokens", "Tokens of a batch", "model", buckets=SIZES
        )
        padding = "Share of the tokens computed for a batch that belong to no text"
        self._padding = make.histogram("batch_padding_ratio", padding, "model", buckets=RATIOS)

    def __call__(self, event: Event) -> None:
        """Count `event`."""
        count = self._by_kind.get(type(event))
        if count is not None:
            count(event)

    def _call_finished(self, event: CallFinished) -> None:
        asked, route = event.asked, event.route
        if asked.is_stream:
            self._first(*_call(asked, route.backend)).observe(route.latency_seconds)
        else:
            self._ended(asked, route.backend, event.answered, "ok", route.latency_seconds)

    def _stream_ended(self, event: StreamEnded) -> None:
        outcome = event.error or ("ok" if event.is_whole else "left")
        backend, seconds = event.route.backend, event.duration_seconds
        self._ended(event.asked, backend, event.answered, outcome, seconds)

    def _call_failed(self, event: CallFailed) -> None:
        self._ended(event.asked, "none", Answered(), event.error, event.latency_seconds)

    def _ended(
        self, asked: Asked, backend: BackendKind | str, got: Answered, outcome: str, seconds: float
    ) -> None:
        labels = _call(asked, backend)
        self._requests(*labels, outcome).inc()
        self._seconds(*labels).observe(seconds)
        if got.input_tokens is not None:
            self._tokens(*labels, "input").inc(got.input_tokens)
        if got.output_tokens is not None:
            self._tokens(*labels, "output").inc(got.output_tokens)

    def _fell_back(self, event: FellBack) -> None:
        self._fallbacks(_model(event.model), event.from_target, event.to_target, event.reason).inc()

    def _attempt_finished(self, event: AttemptFinished) -> None:
        target, outcome = event.attempt.target, event.attempt.reason or "ok"
        self._attempts(event.operation, _model(event.model), target, outcome).inc()

    def _retried(self, event: Retried) -> None:
        labels = (event.operation, _model(event.model), event.target, event.reason)
        self._retries(*labels).inc()

    def _cache_looked_up(self, event: CacheLookedUp) -> None:
        labels = (event.operation, _model(event.model))
        self._hits(*labels).inc(event.hits)
        self._misses(*labels).inc(event.misses)

    def _target_closed(self, event: TargetClosed | RemoteQuarantined) -> None:
        self._breaker(_model(event.model), event.target).set(1)

    def _target_reopened(self, event: TargetReopened) -> None:
        self._breaker(_model(event.model), event.target).set(0)

    def _model_loaded(self, event: ModelLoaded) -> None:
        self._loads(_model(event.model)).observe(event.load_seconds)
        self._loaded(_model(event.model)).inc()

    def _model_unloaded(self, event: ModelUnloaded) -> None:
        self._loaded(_model(event.model)).dec()

    def _batch_computed(self, event: BatchComputed) -> None:
        # The repository's name: only what is loaded computes, and little is.
        self._depth(event.model).set(event.waiting)
        self._forward(event.model).observe(event.forward_seconds)
        self._rows(event.model).observe(event.rows)
        self._batch_tokens(event.model).observe(event.tokens)
        computed = event.tokens + event.padded_tokens
        self._padding(event.model).observe(event.padded_tokens / computed)
        self._tokenize(event.model).observe(event.tokenize_seconds)
        waits = self._waits(event.model)
        for seconds in event.queue_wait_seconds:
            waits.observe(seconds)


def _call(asked: Asked, backend: str) -> tuple[str, str, str]:
    return (asked.operation, _model(asked.model), backend)


def _model(name: str) -> str:
    """An alias with its task; all Hub ids are one, because callers may write any."""
    return name if name.startswith(("chat/", "embeddings/")) else OTHER_MODELS
