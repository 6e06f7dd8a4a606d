import pytest

from hybrid_infer import HybridClient
from hybrid_infer.cli.demo import talk


def test_without_weights_the_tiny_profile_talks(tmp_path):
    assert talk.talk_at_hand(tmp_path) is talk.TINY


def test_damaged_weights_do_not_stop_the_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "test-weights" / talk.FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"not what it says")
    assert talk.talk_at_hand(tmp_path) is talk.TINY


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
def test_smollm2_answers_in_english(weights, tmp_path, monkeypatch):
    if not (weights / talk.FOLDER).is_dir():
        pytest.skip("SmolLM2 was not fetched; ./scripts/test without --fast does")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "test-weights").symlink_to(weights)
    chosen = talk.talk_at_hand(tmp_path)
    assert chosen is talk.SMOLLM2
    with HybridClient(policy="local-only", **chosen.arguments) as client:
        done = client.chat_completion("What is the capital of France?", "small", max_tokens=16)
    assert "Paris" in done.choices[0].message.content
