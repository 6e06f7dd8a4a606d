import json

import pytest

from hybrid_infer.cli import diagnosis

KEY = "hf_abcdefghijklmnopqrstuvwxyz"


def examined(run, *words):
    done = run("doctor", "--json", *words)
    return done.code, json.loads(done.out)


def test_with_nothing_here_it_exits_1_and_says_what_to_do(run):
    done = run("doctor", "--no-network")
    assert done.code == 1
    shown = " ".join(done.out.split())
    assert "https://huggingface.co/settings/tokens" in shown
    assert "hybrid-infer pull" in shown
    assert "torch 2." in shown


def test_a_reachable_remote_serves(run, echo):
    code, found = examined(run, "--base-url", echo.url)
    assert code == 0
    assert found["remotes"][0]["reachable"] is True
    assert found["can_serve"]
    assert echo.ledger == []


def test_a_remote_that_is_gone_does_not(run, echo):
    echo.go_down()
    code, found = examined(run, "--base-url", echo.url)
    assert code == 1
    assert found["remotes"][0]["reachable"] is False
    assert any("out of reach" in step for step in found["next_steps"])


def test_tiny_models_are_here_and_fit(run):
    code, found = examined(run, "--profile", "tiny", "--no-network")
    assert code == 0
    small = next(row for row in found["models"] if row["name"] == "chat/small")
    assert (small["downloaded"], small["fits"], small["local"]) == (True, True, "ready")
    assert "stream" in small["capabilities"]
    assert run("doctor", "--profile", "tiny").code == 0


def test_the_key_is_named_and_never_shown(run, monkeypatch):
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", KEY)
    code, found = examined(run, "--no-network")
    assert code == 0  # whether the remote is up was not asked
    assert found["keys"][0]["source"] == "HUGGING_FACE_HUB_TOKEN"
    assert found["keys"][0]["masked"] == "hf_…wxyz"
    for words in (["doctor", "--no-network"], ["doctor", "--no-network", "--json"]):
        done = run(*words)
        assert KEY not in done.out + done.err


def test_a_short_key_is_masked_whole():
    assert diagnosis.masked("hf_short") == "hf_…"
    assert diagnosis.masked("short") == "…"


def test_offline_skips_hugging_face_and_nothing_else(run, monkeypatch, echo):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", KEY)
    code, found = examined(run)
    assert code == 1
    assert found["offline_variable"] == "HF_HUB_OFFLINE"
    assert found["remotes"][0]["detail"] == "not tried: HF_HUB_OFFLINE is set"
    assert examined(run, "--base-url", echo.url)[0] == 0


def test_a_device_that_is_not_here_is_a_finding(run):
    torch = pytest.importorskip("torch")
    code, found = examined(
        run, "--profile", "tiny", "--device", f"cuda:{torch.cuda.device_count()}"
    )
    assert code == 1
    assert "is not here" in found["machine"]["problem"]


def test_a_proxy_is_what_is_connected_to(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    assert diagnosis._first_hop("https://router.huggingface.co") == "http://127.0.0.1:9"
    assert diagnosis._first_hop("http://127.0.0.1:80") == "http://127.0.0.1:80"


@pytest.mark.parametrize(
    "words", [("--dtype", "int8"), ("--device", "cuda:x"), ("--device", "tpu"), ("--device", "")]
)
def test_a_device_or_dtype_that_there_is_not_is_refused_as_the_client_refuses_it(run, words):
    code, found = examined(run, "--profile", "tiny", "--no-network", *words)
    chat = run("chat", "hi", "--json", "--profile", "tiny", *words)
    assert code == chat.code == 2
    assert found == json.loads(chat.out)
    assert found["error"]["type"] == "ConfigError"
