"""A stranger's OpenAI script changes its URL, its network goes, and it keeps getting answers; the page says why."""

import json
import urllib.request

import numpy as np
import openai
import pytest

from hybrid_infer import HybridClient
from hybrid_infer.testing import FakeRemote, Match, Reply

CHAT_MODEL, EMBEDDINGS_MODEL = "gpt-4o-mini", "text-embedding-3-small"
MODELS = f"""
chat:
  {CHAT_MODEL}: {{repo: microsoft/Phi-3-mini-4k-instruct}}
embeddings:
  {EMBEDDINGS_MODEL}: {{repo: sentence-transformers/all-MiniLM-L6-v2}}
"""
PROMPT = [{"role": "user", "content": "Tell me about low latency."}]
TEXTS = ["The weather is lovely today.", "It's so sunny outside!"]
PATIENCE_SECONDS = 60


@pytest.fixture
def network():
    """What the script's provider is to it; `go_down` takes it away."""
    with FakeRemote(answers="tiny") as remote:
        yield remote


@pytest.fixture
def server(start_server, network, tmp_path):
    models = tmp_path / "models.yaml"
    models.write_text(MODELS, encoding="utf-8")
    return start_server("--profile", "tiny", "--base-url", network.url, "--models", str(models))


@pytest.fixture
def expected():
    with HybridClient(profile="tiny", policy="local-only", dtype="float32") as client:
        yield client


class Script:
    """The stranger's: written for OpenAI, and none of it knows what serves it."""

    def __init__(self, base_url):
        self.client = openai.OpenAI(base_url=base_url, api_key="sk-theirs", max_retries=0)

    def searches(self):
        answer = self.client.embeddings.create(model=EMBEDDINGS_MODEL, input=TEXTS)
        return np.array([item.embedding for item in answer.data], np.float32)

    def asks(self):
        answer = self.client.chat.completions.create(
            model=CHAT_MODEL, messages=PROMPT, max_tokens=12, temperature=0
        )
        return answer.choices[0].message.content

    def listens(self, after_first=lambda: None):
        stream = self.client.chat.completions.create(
            model=CHAT_MODEL, messages=PROMPT, max_tokens=12, temperature=0, stream=True
        )
        pieces = []
        for chunk in stream:
            if chunk.choices:
                pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) == 1:
                after_first()
        return "".join(pieces)


def shown_by_the_page(server):
    """The newest of the states that the page is fed with."""
    with urllib.request.urlopen(server.url + "/events", timeout=PATIENCE_SECONDS) as events:  # noqa: S310 - our own
        return json.loads(events.readline().removeprefix(b"data: "))


def test_it_keeps_getting_answers_and_the_page_shows_why(server, network, expected):
    script = Script(server.url + "/v1")
    said = expected.chat_completion(PROMPT, "small", max_tokens=12, temperature=0)
    text = said.choices[0].message.content
    vectors = expected.embed(TEXTS, "small").vectors

    np.testing.assert_allclose(script.searches(), vectors, atol=1e-2)
    assert script.asks() == text
    assert len(network.ledger) == 2
    before = shown_by_the_page(server)
    assert before["recent"]["fallbacks"] == []
    assert before["remotes"]["huggingface"]["state"] == "available"

    # The network goes in the middle of an answer: the sentence is finished all the same.
    network.enqueue(Reply(stall_after_events=3), match=Match(task="chat", stream=True))
    assert script.listens(after_first=network.go_down) == text
    for _ in range(2):
        np.testing.assert_allclose(script.searches(), vectors, atol=2e-6)
        assert script.asks() == script.listens() == text

    after = shown_by_the_page(server)
    assert after["recent"]["local_calls"] >= 6
    told = {(one["model"], one["from"], one["to"]) for one in after["recent"]["fallbacks"]}
    assert told == {
        (f"chat/{CHAT_MODEL}", "huggingface", "local"),
        (f"embeddings/{EMBEDDINGS_MODEL}", "huggingface", "local"),
    }
    reasons = {one["reason"] for one in after["recent"]["fallbacks"]}
    assert reasons == {"bad_response", "connection_failed"}  # the stream that broke, and the rest
