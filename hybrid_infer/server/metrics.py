"""The counts in Prometheus' text format.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hybrid_infer.server.admission import Admission
from hybrid_infer.server.statistics import BUCKETS, Histogram, Statistics

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = tuple[tuple[str, str], ...]


def exposition(statistics: Statistics, admission: Admission) -> str:
    """Every metric, as text."""
    seen = statistics.copied()
    lines = [
        *_family("requests_total", "counter", "Calls by outcome.", (
            ((*_operation(model), ("backend", backend), ("outcome", outcome)), count)
            for (model, backend, outcome), count in seen.requests.items()
        )),
        *_histograms(seen.durations),
        *_family("fallbacks_total", "counter", "Calls that the first choice did not serve.", (
            (_named(("model", "from_backend", "to_backend", "reason"), key), count)
            for key, count in seen.fallbacks.items()
        )),
        *_family("attempts_total", "counter", "Tries at each target by outcome.", (
            (_named(("model", "target", "outcome"), key), count)
            for key, count in seen.attempts.items()
        )),
        *_family("server_requests_in_progress", "gauge", "Requests.", [((), admission.requests)]),
        *_family("server_texts_waiting", "gauge", "Texts of those.", [((), admission.texts)]),
        *_family("server_refused_total", "counter", "Requests refused because the server was full.",
                 [((), admission.refused)]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _histograms(durations: Mapping[tuple[str, str], Histogram]) -> Iterator[str]:
    name = "hybrid_infer_request_duration_seconds"
    yield f"# HELP {name} Time of a call; of a stream, to its first chunk."
    yield f"# TYPE {name} histogram"
    for (model, backend), found in durations.items():
        labels = (*_operation(model), ("backend", backend))
        total = 0
        for most, count in zip((*BUCKETS, "+Inf"), found.counts, strict=True):
            total += count
            yield f"{name}_bucket{_shown((*labels, ('le', str(most))))} {total}"
        yield f"{name}_sum{_shown(labels)} {found.total_seconds!r}"
        yield f"{name}_count{_shown(labels)} {total}"


def _operation(model: str) -> _Labels:
    operation = model.partition("/")[0]
    return (("operation", operation), ("model", model))


def _family(
    name: str, kind: str, about: str, samples: Iterable[tuple[_Labels, int]]
) -> Iterator[str]:
    full = f"hybrid_infer_{name}"
    yield f"# HELP {full} {about}"
    yield f"# TYPE {full} {kind}"
    for labels, value in samples:
        yield f"{full}{_shown(labels)} {value}"


def _named(names: tuple[str, ...], values: tuple[str, ...]) -> _Labels:
    return tuple(zip(names, values, strict=True))


def _shown(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
