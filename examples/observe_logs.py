"""Logging: one line a fact, and never a prompt. A remote that is not there is one fallback."""

import logging

from hybrid_infer import HybridClient
from hybrid_infer.observers.logs import LogObserver

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
logging.getLogger("hybrid_infer.calls").setLevel(logging.DEBUG)

with HybridClient(base_url="http://127.0.0.1:9", on_event=LogObserver()) as client:
    client.embed("a text", model="small")
