"""Prometheus: counters and times, as a scrape shows them."""

from prometheus_client import REGISTRY, generate_latest

from hybrid_infer import HybridClient
from hybrid_infer.observers.prometheus import PrometheusObserver

with HybridClient(cache=1000, on_event=PrometheusObserver()) as client:
    client.embed(["a text", "another one"], model="small")
    client.embed(["a text"], model="small")

# In a service: prometheus_client.start_http_server(9100)
for line in generate_latest(REGISTRY).decode().splitlines():
    if line.startswith(("hybrid_infer_requests_total", "hybrid_infer_cache")):
        print(line)
