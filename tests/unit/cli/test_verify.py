import json

import pytest


@pytest.fixture
def golden_url(fake_remote_factory, golden_answers):
    return fake_remote_factory(answers=golden_answers).url


def test_a_row_a_probe_and_0_if_they_agree(run, golden_url):
    done = run("verify", "embeddings/small", "--base-url", golden_url, "--policy", "remote-only")
    assert done.code == 0, done.err
    for part in ("remote against goldens", "upper case", "cjk", "over-length", "$&", "384"):
        assert part in done.out
    assert done.out.splitlines()[-1].startswith("ok · least cosine 1.0000")


def test_1_if_they_differ(run, golden_url, golden_answers, wrong):
    golden_answers.change = wrong
    done = run("verify", "embeddings/small", "--base-url", golden_url, "--policy", "remote-only")
    assert done.code == 1
    assert "is below 0.999" in done.out
    assert done.out.splitlines()[-1].startswith("not ok")


def test_a_failure_without_rows_is_shown(run, golden_url, golden_answers, unnormalised):
    golden_answers.change = unnormalised
    done = run("verify", "embeddings/small", "--base-url", golden_url, "--policy", "remote-only")
    assert done.code == 1
    assert "unit length" in done.out


def test_remote_against_local_and_json(run, fake_remote):
    done = run(
        "verify", "embeddings/small", "--profile", "tiny", "--base-url", fake_remote.url, "--json"
    )
    report = json.loads(done.out)
    assert (done.code, report["ok"], report["compared"]) == (0, True, "remote:local")
    assert report["cos_min"] > 0.999
    assert len(report["probes"]) == 14


def test_chat_has_a_name_only(run, fake_remote):
    done = run("verify", "chat/small", "--profile", "tiny", "--base-url", fake_remote.url)
    assert done.code == 0
    assert "model name" in done.out


@pytest.mark.parametrize("name", ["embeddings/small", "embeddings/large", "chat/small"])
def test_2_and_the_word_if_there_is_nothing_to_compare(run, name):
    done = run("verify", name)
    assert done.code == 2
    assert "unverifiable" in done.err
    assert "HF_TOKEN" in done.err
    done = run("verify", name, "--json")
    assert done.code == 2
    assert "unverifiable" in json.loads(done.out)["error"]["message"]


def test_2_for_an_ambiguous_or_unknown_name(run):
    assert run("verify", "small").code == 2
    assert run("verify", "embeddings/smal").code == 2
