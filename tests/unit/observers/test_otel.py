"""The spans through the real SDK and its in-memory exporter."""

import itertools

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hybrid_infer import RemoteServerError
from hybrid_infer.observers.otel import OpenTelemetryObserver
from hybrid_infer.testing import Reply


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


@pytest.fixture
def observer(provider):
    return OpenTelemetryObserver(provider)


@pytest.fixture
def spans(exporter, prompt):
    """A call's span, and its tries' in their order."""

    def finished():
        made = exporter.get_finished_spans()
        assert prompt not in "".join(span.to_json() for span in made)
        (parent,) = [s for s in made if s.parent is None]
        children = [s for s in made if s.parent is not None]
        assert all(child.parent.span_id == parent.context.span_id for child in children)
        return parent, sorted(children, key=lambda span: span.start_time)

    return finished


def test_a_chat_call(watched, observer, spans, prompt):
    with watched(observer) as client:
        client.chat_completion(prompt, model="small", max_tokens=4, top_p=0.5, seed=3)
    call, (attempt,) = spans()
    assert (call.name, call.kind) == ("chat small", SpanKind.INTERNAL)
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "small",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.provider.name": "huggingface",
        "gen_ai.response.model": "tiny/Phi-3-mini-4k-instruct",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": call.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "hybrid_infer.backend": "remote",
        "hybrid_infer.reason": "primary",
        "hybrid_infer.verified": True,
    }
    assert call.attributes["gen_ai.usage.input_tokens"] > 4
    assert call.status.status_code is StatusCode.UNSET
    assert (attempt.name, attempt.kind) == ("chat small", SpanKind.CLIENT)
    assert attempt.attributes["gen_ai.provider.name"] == "huggingface"


def test_a_fallback_has_a_child_for_each_try(watched, observer, spans, limited, prompt):
    with watched(observer) as client:
        client.embed([prompt, "b"], model="small")
    call, (remote, local) = spans()
    assert call.name == "embeddings small"
    assert call.attributes["gen_ai.embeddings.dimension.count"] == 384
    assert call.attributes["hybrid_infer.num_texts"] == 2
    assert call.attributes["gen_ai.provider.name"] == "hybrid_infer.local"
    assert call.attributes["hybrid_infer.reason"] == "rate_limited"
    assert len(call.attributes["hybrid_infer.revision"]) == 40
    assert remote.attributes["error.type"] == "RateLimitError"
    assert remote.attributes["hybrid_infer.retry_after_seconds"] == 30
    assert remote.status.status_code is StatusCode.ERROR
    assert (local.kind, local.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    times = [call.start_time, remote.start_time, remote.end_time, local.start_time, local.end_time]
    assert all(early <= late for early, late in itertools.pairwise(times))
    assert local.end_time <= call.end_time


def test_a_failure(watched, observer, spans, fake, prompt):
    fake.enqueue(Reply(status=500, json={"error": f"about {prompt}"}), times=3)
    client = watched(observer, policy="remote-only")
    with client, pytest.raises(RemoteServerError):
        client.embed(prompt, model="small")
    call, attempts = spans()
    assert len(attempts) == 3
    assert call.attributes["error.type"] == "RemoteServerError"
    assert call.status.status_code is StatusCode.ERROR


def test_a_stream_is_one_span_that_ends_with_it(watched, observer, exporter, spans, prompt):
    with watched(observer) as client:
        stream = client.chat_completion(prompt, model="small", max_tokens=4, stream=True)
        next(stream)
        assert exporter.get_finished_spans() == ()
        list(stream)
    call, (_,) = spans()
    assert call.attributes["gen_ai.response.finish_reasons"] == ("length",)


def test_it_joins_the_callers_own_trace(watched, observer, provider, exporter, prompt):
    tracer = provider.get_tracer("mine")
    with watched(observer) as client, tracer.start_as_current_span("request") as mine:
        client.embed(prompt, model="small")
    call = next(s for s in exporter.get_finished_spans() if s.name == "embeddings small"
                and s.parent.span_id == mine.get_span_context().span_id)  # fmt: skip
    assert call.context.trace_id == mine.get_span_context().trace_id


def test_without_an_sdk_nothing_happens(watched, prompt):
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    with watched(OpenTelemetryObserver()) as client:
        assert client.embed(prompt, model="small").vectors.shape == (1, 384)
