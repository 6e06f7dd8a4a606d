"""The counters through the real library, as a scrape shows them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hybrid_infer import RemoteServerError
from hybrid_infer.events import Asked, CallFailed
from hybrid_infer.observers.prometheus import PrometheusObserver
from hybrid_infer.testing import Reply

EMBED = {"operation": "embeddings", "model": "embeddings/small"}
CHAT = {"operation": "chat", "model": "chat/small"}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def scraped(registry):
    """A sample's value by name and labels; None if there is none."""

    def value(name, **labels):
        return registry.get_sample_value(f"hybrid_infer_{name}", labels)

    return value


@pytest.fixture
def observer(registry):
    return PrometheusObserver(registry)


def test_a_fallback(watched, observer, scraped, limited, prompt):
    with watched(observer) as client:
        client.embed(prompt, model="small")
    assert scraped("requests_total", **EMBED, backend="local", outcome="ok") == 1
    assert scraped("request_duration_seconds_count", **EMBED, backend="local") == 1
    assert scraped("tokens_total", **EMBED, backend="local", type="input") > 1
    labels = {"from_backend": "huggingface", "to_backend": "local", "reason": "rate_limited"}
    assert scraped("fallbacks_total", model="embeddings/small", **labels) == 1
    assert scraped("breaker_state", model="embeddings/small", backend="huggingface") == 1
    assert scraped("model_load_seconds_count", model="embeddings/small") == 1
    repo = "tiny/all-MiniLM-L6-v2"
    assert scraped("batch_rows_sum", model=repo) == 1
    assert scraped("batch_tokens_sum", model=repo) > 1
    assert scraped("forward_seconds_count", model=repo) == 1
    assert scraped("queue_depth", model=repo) == 0
    assert scraped("queue_wait_seconds_count", model=repo) == 1
    assert scraped("tokenize_seconds_sum", model=repo) > 0
    assert 0 <= scraped("batch_padding_ratio_sum", model=repo) < 1
    assert scraped("models_loaded", model="embeddings/small") == 0  # its client is closed


def test_models_in_memory(watched, observer, scraped, prompt):
    def loaded():
        return scraped("models_loaded", model="embeddings/small")

    with watched(observer, policy="local-only") as client:
        client.embed(prompt, model="small")
        assert loaded() == 1
        client.unload("embeddings/small")
        assert loaded() == 0
        client.embed(prompt, model="small")
        assert loaded() == 1


def test_retries_and_failures(watched, observer, scraped, fake, prompt):
    fake.enqueue(Reply(status=500), times=3)
    client = watched(observer, policy="remote-only")
    with client, pytest.raises(RemoteServerError):
        client.embed(prompt, model="small")
    labels = {"backend": "huggingface", "reason": "server_error"}
    assert scraped("retries_total", **EMBED, **labels) == 2
    assert scraped("requests_total", **EMBED, backend="none", outcome="RemoteServerError") == 1


def test_coming_back(watched, observer, scraped, fake, prompt):
    fake.go_down()
    with watched(observer) as client:
        client.warm("embeddings/small")
        client.embed(prompt, model="small")
        fake.come_back()
        client.reset()
        client.embed(prompt, model="small")
    assert scraped("breaker_state", model="embeddings/small", backend="huggingface") == 0


def test_a_stream_counts_once_at_its_end(watched, observer, scraped, prompt):
    options = {"model": "small", "max_tokens": 4, "stream_options": {"include_usage": True}}
    with watched(observer) as client:
        stream = client.chat_completion(prompt, stream=True, **options)
        next(stream)
        assert scraped("requests_total", **CHAT, backend="remote", outcome="ok") is None
        assert scraped("time_to_first_token_seconds_count", **CHAT, backend="remote") == 1
        list(stream)
        client.chat_completion(prompt, stream=True, **options).close()
    assert scraped("requests_total", **CHAT, backend="remote", outcome="ok") == 1
    assert scraped("requests_total", **CHAT, backend="remote", outcome="left") == 1
    assert scraped("tokens_total", **CHAT, backend="remote", type="output") == 4


def test_the_cache(watched, observer, scraped, prompt):
    with watched(observer, cache=10) as client:
        client.embed([prompt, "b"], model="small")
        client.embed([prompt, "b", "c"], model="small")
        client.embed([prompt], model="small")
    assert scraped("cache_hits_total", **EMBED) == 3
    assert scraped("cache_misses_total", **EMBED) == 3
    assert scraped("requests_total", **EMBED, backend="cache", outcome="ok") == 1


def test_what_callers_make_up_is_no_label(observer, registry):
    for number in range(3):
        asked = Asked("embeddings", f"made/up-{number}")
        observer(CallFailed(asked.model, "ModelNotAvailableError", (), asked, 0.1))
    assert b"made" not in generate_latest(registry)
    assert b'model="other",operation="embeddings"' in generate_latest(registry)


def test_a_scrape_is_well_formed(watched, observer, registry, limited, prompt):
    with watched(observer, cache=4) as client:
        client.embed(prompt, model="small")
        client.chat_completion(prompt, model="small", max_tokens=2)
    text = generate_latest(registry).decode()
    families = {f.name for f in text_string_to_metric_families(text)}
    assert {"hybrid_infer_requests", "hybrid_infer_request_duration_seconds"} <= families
    assert all(name.startswith("hybrid_infer_") for name in families)
    assert prompt not in text


def test_one_registry_has_one_observer(registry, observer):
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusObserver(registry)
