"""The plugin as ``llm`` finds it: by its entry point, in the library and on the command line."""

import asyncio
import os
import subprocess
import sys
from importlib.metadata import entry_points

import llm
import numpy as np
import pytest
from llm.parts import AttachmentPart, Message

from hybrid_infer import InvalidRequestError
from hybrid_infer.adapters import llm as plugin

ALIASES = ("default", "large", "agent", "small")


@pytest.fixture
def served(client, monkeypatch):
    """The plugin's models, served by this test's client."""
    monkeypatch.setattr(plugin, "client", lambda: client)
    return client


def test_it_is_found_by_its_entry_point():
    (found,) = [e for e in entry_points(group="llm") if e.name == "hybrid_infer"]
    assert found.load() is plugin


def test_every_alias_is_registered():
    chats, embedders = [], []
    plugin.register_models(lambda *models: chats.append([m.model_id for m in models]))
    plugin.register_embedding_models(lambda model: embedders.append(model.model_id))
    assert sorted(chats) == sorted([[f"hybrid-infer/{name}"] * 2 for name in ALIASES])
    assert sorted(embedders) == [f"hybrid-infer/{n}" for n in ("default", "large", "small")]


def test_a_prompt(served):
    model = plugin.Chat("small")
    response = model.prompt("hello", stream=False, max_tokens=6, temperature=0)
    expected = served.chat_completion("hello", "small", max_tokens=6, temperature=0)
    assert response.text() == expected.choices[0].message.content
    assert (response.input_tokens, response.output_tokens) == (expected.usage.prompt_tokens, 6)
    assert response.resolved_model == expected.model


def test_a_stream(served, limited):
    response = plugin.Chat("small").prompt("hello", max_tokens=6, temperature=0)
    pieces = list(response)
    assert len(pieces) > 1
    assert "".join(pieces) == response.text()
    assert response.output_tokens == 6


def test_an_awaited_stream(served):
    async def ask():
        response = plugin.AsyncChat("small").prompt("hello", max_tokens=6, temperature=0)
        return [piece async for piece in response], await response.text()

    pieces, text = asyncio.run(ask())
    assert len(pieces) > 1
    blocking = plugin.Chat("small").prompt("hello", max_tokens=6, temperature=0)
    assert "".join(pieces) == text == blocking.text()


def test_a_conversation_has_its_history(served, fake):
    conversation = plugin.Chat("small").conversation()
    first = conversation.prompt("hello", system="be brief", max_tokens=4).text()
    conversation.prompt("and now?", max_tokens=4).text()
    assert fake.ledger[-1].body_json["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and now?"},
    ]


def test_what_is_no_text_is_refused():
    attachment = AttachmentPart(attachment=llm.Attachment(type="image/png", content=b"x"))
    model = plugin.Chat("small")
    prompt = llm.Prompt(None, model, messages=[Message(role="user", parts=[attachment])])
    with pytest.raises(InvalidRequestError, match="AttachmentPart"):
        plugin._messages(prompt)


def test_embeddings(served):
    model = plugin.Embedding("small")
    expected = served.embed(["a", "b"], "small").vectors
    np.testing.assert_allclose(list(model.embed_multi(["a", "b"])), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed("a"), expected[0], atol=1e-6)


def test_the_command_line(tmp_path):
    environment = {
        **os.environ,
        "LLM_USER_PATH": str(tmp_path),
        "LLM_LOAD_PLUGINS": "hybrid-infer",
        "HYBRID_INFER_PROFILE": "tiny",
    }
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "hybrid-infer/small", "hello", "-o", "max_tokens", "4"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
