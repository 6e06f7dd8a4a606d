"""Observers: what is done with the events of `hybrid_infer.events`. Chosen by import, none by default.

    from hybrid_infer import HybridClient
    from hybrid_infer.observers import combine
    from hybrid_infer.observers.logs import LogObserver
    from hybrid_infer.observers.prometheus import PrometheusObserver

    client = HybridClient(on_event=combine(LogObserver(), PrometheusObserver()))

None of them sends anything anywhere: what a collector or an exporter does is set up elsewhere.
"""

from __future__ import annotations

from hybrid_infer.events import Audience, Observer


def combine(*observers: Observer | None) -> Observer:
    """One observer that tells several; if one raises, that is logged and the others are told."""
    return Audience(observers)
