"""OpenTelemetry: a span for each call, with a child for each try, printed as JSON."""

import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from hybrid_infer import HybridClient
from hybrid_infer.observers.otel import OpenTelemetryObserver

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))

with HybridClient(on_event=OpenTelemetryObserver(provider)) as client:
    client.chat_completion("Explain low latency.", model="small", max_tokens=16)
provider.shutdown()
