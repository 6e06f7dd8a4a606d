"""What ``/metrics`` tells: the client's events as counted by `PrometheusObserver`, and the server's own queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

# Before the observer, whose own error names its extra and not the server's.
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hybrid_infer.events import Event, guarded
from hybrid_infer.observers.prometheus import PrometheusObserver
from hybrid_infer.server.admission import Admission

MOST_UNCOUNTED = 64  # events


class Metrics:
    """The metrics of one server, in a registry of their own; an observer of the client behind it.

    Events are counted many at a time, and before anybody looks: one by one, each between two requests,
    took a tenth of the event loop's time. All that is counted of them is in them.

    Attributes:
        kinds: of events that are counted.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        count = PrometheusObserver(self._registry)
        self.kinds = count.kinds
        self._count = guarded(count)
        self._uncounted: deque[Event] = deque()
        self._in_turn = threading.RLock()  # of what is set, the last word counts

    def __call__(self, event: Event) -> None:
        """Take an event, on any thread."""
        self._uncounted.append(event)
        if len(self._uncounted) >= MOST_UNCOUNTED:
            self._count_all()

    def _count_all(self) -> None:
        with self._in_turn:
            while self._uncounted:  # nobody else takes any
                self._count(self._uncounted.popleft())

    def watch(self, admission: Admission) -> None:
        """Tell of what is in progress, too."""
        self._registry.register(_InProgress(admission))

    def exposition(self, accepted: str) -> tuple[bytes, str]:
        """Every metric, and the content type of that.

        Args:
            accepted: the ``Accept`` header: OpenMetrics where asked; else Prometheus' own text format,
                also where the header is not understood.
        """
        self._count_all()
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):  # of a version that is quoted, or no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class _InProgress(Collector):
    """The admission's numbers at the moment of a scrape."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        admission = self._admission
        name = "hybrid_infer_server"
        yield GaugeMetricFamily(
            f"{name}_requests_in_progress", "Requests in progress", admission.requests
        )
        yield GaugeMetricFamily(f"{name}_texts_waiting", "Texts of those", admission.texts)
        yield CounterMetricFamily(
            f"{name}_refused", "Requests refused because the server was full", admission.refused
        )
