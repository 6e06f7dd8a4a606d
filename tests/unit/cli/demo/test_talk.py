import importlib.util
import shutil
from pathlib import Path

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.cli.demo import talk


def test_without_weights_the_tiny_profile_talks(tmp_path):
    assert talk.talk_at_hand(tmp_path, print) is talk.TINY


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf")
def test_damaged_weights_do_not_stop_the_demo(tmp_path, capsys):
    (tmp_path / "test-weights").mkdir()
    (tmp_path / "test-weights" / talk.GGUF).write_bytes(b"GGUF, or so it says")
    assert talk.talk_at_hand(tmp_path, print) is talk.TINY
    assert "cannot be unpacked" in capsys.readouterr().out
    assert not (tmp_path / "demo" / "smollm2").exists()


def test_a_clients_answer_becomes_a_remotes():
    with HybridClient(profile="tiny", policy="local-only") as client:
        answers = talk.ClientAnswers(client)
        answer = answers.chat(
            "any", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        )
        assert answer.completion_tokens <= 4
        assert answer.prompt_tokens > 0
        assert "".join(answer.pieces)


@pytest.mark.slow
@pytest.mark.real_weights
@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf")
def test_smollm2_answers_in_english(weights, tmp_path, monkeypatch):
    if not (weights / talk.GGUF).is_file():
        pytest.skip("SmolLM2 is not here; ./scripts/test fetches it")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "test-weights").mkdir()
    link_or_copy(weights / talk.GGUF, tmp_path / "test-weights" / talk.GGUF)
    chosen = talk.talk_at_hand(tmp_path, print)
    assert chosen is talk.SMOLLM2
    with HybridClient(policy="local-only", **chosen.arguments) as client:
        done = client.chat_completion("What is the capital of France?", "small", max_tokens=16)
    assert "Paris" in done.choices[0].message.content


def link_or_copy(source: Path, target: Path):
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copy(source, target)
