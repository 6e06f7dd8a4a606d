"""`verify` over real TCP: every pair of sides, and every way in which one fails."""

import asyncio

import pytest

from hybrid_infer import (
    AsyncHybridClient,
    EngineClosedError,
    HybridClient,
    InvalidRequestError,
    UnverifiableError,
)
from hybrid_infer.snapshots.probes import PROBES
from hybrid_infer.testing import Reply, SentenceTransformerAnswers


@pytest.fixture
def golden_fake(fake_remote_factory, golden_answers):
    return fake_remote_factory(answers=golden_answers)


@pytest.fixture
def remotely(golden_fake):
    with HybridClient(policy="remote-only", base_url=golden_fake.url) as client:
        yield client


@pytest.fixture
def tiny(fake_remote):
    with HybridClient(profile="tiny", base_url=fake_remote.url, dtype="float32") as client:
        yield client


@pytest.mark.parametrize(("alias", "dim"), [("small", 384), ("default", 768)])
def test_a_remote_alone_is_compared_with_goldens(remotely, alias, dim):
    report = remotely.verify(f"embeddings/{alias}")
    assert report
    assert (report.ok, report.compared, report.dim) == (True, "remote:goldens", dim)
    assert report.cos_min == pytest.approx(1, abs=1e-6)
    assert report.max_abs < 1e-6
    assert (report.norm_min, report.norm_max) == (pytest.approx(1), pytest.approx(1))
    assert (report.dtype, report.bound) == (None, 0.999)
    assert [row.probe for row in report.probes] == [probe.label for probe in PROBES]
    assert report.failures == report.left_out == ()


def test_afterwards_routes_are_verified(remotely):
    assert not remotely.embed("a", model="small").route.verified
    assert remotely.verify("embeddings/small").ok
    assert remotely.embed("a", model="small").route.verified
    assert not remotely.embed("a", model="default").route.verified


def test_wrong_vectors_are_not_ok(remotely, golden_answers, wrong):
    golden_answers.change = wrong
    report = remotely.verify("embeddings/small")
    assert not report
    assert report.cos_min < 0.99
    assert any("cosine" in line for line in report.failures)
    assert not remotely.embed("a", model="small").route.verified


def test_vectors_that_are_refused_are_not_ok(remotely, golden_answers, unnormalised):
    golden_answers.change = unnormalised
    report = remotely.verify("embeddings/small")
    assert (report.ok, report.cos_min, report.probes) == (False, None, ())
    assert "unit length" in report.failures[0]


@pytest.mark.parametrize("status", [401, 402, 404, 500])
def test_a_remote_that_fails_is_not_ok(remotely, golden_fake, status):
    golden_fake.enqueue(Reply(status=status), times=None)
    report = remotely.verify("embeddings/small")
    assert not report.ok
    assert report.failures[0].startswith("huggingface: ")


def test_one_text_that_is_wrong_is_named(remotely, golden_answers):
    def lose_accents(vectors):
        changed = vectors.copy()
        if len(changed) > 1:
            changed[1] = changed[0]
        return changed

    golden_answers.change = lose_accents
    report = remotely.verify("embeddings/small")
    assert len(report.failures) == 1
    assert report.failures[0].startswith("huggingface: accents: cosine")


def test_a_remote_is_compared_with_local(tiny, fake_remote):
    report = tiny.verify("embeddings/small")
    assert report.ok, report.failures
    assert (report.compared, report.dtype, report.dim) == ("remote:local", "float32", 384)
    assert report.cos_min > 0.99999
    assert len(fake_remote.ledger) == 1, "one request holds every probe"


def test_a_remote_that_is_down_is_not_ok_beside_local(tiny, fake_remote):
    fake_remote.go_down()
    report = tiny.verify("embeddings/small")
    assert (report.ok, report.compared, report.cos_min) == (False, "remote:local", None)
    assert "APIConnectionError" in report.failures[0]


def test_chat_is_compared_by_name(tiny, fake_remote):
    report = tiny.verify("chat/small")
    assert (report.ok, report.compared, report.cos_min) == (True, "remote:name", None)
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    fake_remote.enqueue(Reply(json={"model": "another/model", "choices": [choice]}))
    report = tiny.verify("chat/small")
    assert not report.ok
    assert "does not name" in report.failures[0]


def test_nothing_to_compare_is_unverifiable():
    with HybridClient() as client, pytest.raises(UnverifiableError, match="unverifiable") as caught:
        client.verify("embeddings/small")
    notes = "\n".join(caught.value.__notes__)
    assert "no API key" in notes
    assert "hybrid-infer pull embeddings/small" in notes


@pytest.mark.parametrize("name", ["embeddings/small", "chat/small"])
def test_a_tiny_copy_alone_is_unverifiable(name):
    tiny = HybridClient(profile="tiny", policy="local-only")
    with tiny as client, pytest.raises(UnverifiableError):
        client.verify(name)


def test_a_remote_without_goldens_or_local_is_unverifiable(remotely):
    with pytest.raises(UnverifiableError, match="no goldens"):
        remotely.verify("embeddings/large")


def test_a_wrong_name_and_a_closed_client_are_errors(remotely):
    for name in ("small", "embeddings/smal", 3):
        with pytest.raises(InvalidRequestError):
            remotely.verify(name)
    remotely.close()
    with pytest.raises(EngineClosedError):
        remotely.verify("embeddings/small")


def test_async_is_the_same(golden_fake, remotely):
    async def main():
        async with AsyncHybridClient(policy="remote-only", base_url=golden_fake.url) as client:
            return await client.verify("embeddings/small")

    assert asyncio.run(main()) == remotely.verify("embeddings/small")


@pytest.mark.real_weights
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.99999), ("bfloat16", 0.999)])
@pytest.mark.parametrize("alias", ["small", "default"])
def test_real_local_copies_agree_with_the_goldens(real_hub, alias, dtype, bound):
    if alias not in real_hub:
        pytest.skip(f"{alias} was not fetched")
    with HybridClient(policy="local-only", dtype=dtype) as client:
        report = client.verify(f"embeddings/{alias}")
    assert report.ok, report.failures
    assert (report.compared, report.dtype, report.bound) == ("local:goldens", dtype, bound)
    assert bound <= report.cos_min <= 1 + 1e-9


@pytest.mark.real_weights
def test_a_damaged_local_copy_is_not_ok(weights, golden_fake, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with HybridClient(dtype="float32", base_url=golden_fake.url) as client:
        folder = client.pull("embeddings/small", source=weights / "all-MiniLM-L6-v2")
        file = (folder / "model.safetensors").resolve()
        data = file.read_bytes()[:-1]
        file.unlink()
        file.write_bytes(data)
        report = client.verify("embeddings/small")
    assert (report.ok, report.compared) == (False, "remote:local")
    assert any("local" in line for line in report.failures)


def cut_at(window):
    def change(answers):
        answers._model[0].max_seq_length = window

    return change


def read_as(rewritten):
    def change(answers):
        honest = answers.embed
        answers.embed = lambda model, texts, **options: honest(
            model, [rewritten(text) for text in texts], **options
        )

    return change


@pytest.mark.real_weights
@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda answers: None, set()),
        (cut_at(128), {"over-length"}),
        (cut_at(512), {"over-length"}),
        (read_as(lambda text: text.replace("$", "")), {"$&"}),
        (read_as(lambda text: text.encode("ascii", "ignore").decode()), {"accents", "cjk"}),
        (read_as(lambda text: f"query: {text}"), {"plain", "one token", "whitespace only"}),
    ],
    ids=["honest", "window 128", "window 512", "signs lost", "ascii only", "prompt added"],
)
def test_what_servers_get_wrong_is_noticed(real_hub, weights, fake_remote_factory, change, noticed):
    answers = SentenceTransformerAnswers(weights / "all-MiniLM-L6-v2")
    change(answers)
    fake = fake_remote_factory(answers=answers)
    for policy, compared in [("remote-first", "remote:local"), ("remote-only", "remote:goldens")]:
        with HybridClient(base_url=fake.url, policy=policy) as client:
            report = client.verify("embeddings/small")
        assert report.compared == compared
        wrong = {row.probe for row in report.probes if row.why}
        assert noticed <= wrong
        assert report.ok is not bool(noticed)
