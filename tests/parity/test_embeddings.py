"""Local vectors against plain sentence-transformers, on seeded and on real weights."""

import numpy as np
import pytest

from hybrid_infer import HybridClient
from hybrid_infer.local.embedding.encoders import load_encoder
from hybrid_infer.local.embedding.encoders.families import PackedEncoder
from hybrid_infer.local.embedding.tokens import Tokens
from hybrid_infer.local.placement import Placement
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots.facts import snapshot_facts
from hybrid_infer.snapshots.resolve import find_snapshot

PUBLISHED = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = {"small": (0.6660, 0.1046, 0.1411), "default": (0.6817, 0.0492, 0.0421)}
BOUNDS = {"float32": 0.99999, "bfloat16": 0.999}
HOSTILE = [
    "",
    " ",
    "a",
    "UPPER CASE",
    "ünïcödé àccents",
    "日本語のテキスト",
    "🎉🎉 emoji",
    "$& $1 \\ <pad> [SEP] </s>",
    "one two three four five six seven eight nine ten",
    "\n\t whitespace \n\n everywhere \t",
    "x" * 500,
    " ".join(f"word{i}" for i in range(90)),
    " ".join(f"word{i}" for i in range(2000)),
    "a sentence of middling length, with a comma; and more.",
]


def reference(path, texts):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", local_files_only=True).float()
    return model.encode(texts, show_progress_bar=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alias", ["default", "large", "small"])
def test_seeded_architectures(alias, dtype):
    path = find_snapshot(load_registry(profile="tiny").resolve("embeddings", alias))
    with HybridClient(profile="tiny", dtype=dtype, policy="local-only") as client:
        vectors = client.embed(HOSTILE, model=alias).vectors
    cosines = (vectors * reference(path, HOSTILE)).sum(1)
    assert cosines.min() >= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alias", ["default", "large", "small"])
def test_padding_is_what_a_packed_batch_ends_on(alias, dtype, monkeypatch):
    spec = load_registry(profile="tiny").resolve("embeddings", alias)
    path = find_snapshot(spec)
    encoder = load_encoder(path, snapshot_facts(path), Placement("cpu", dtype))
    rows = []
    shown = type(encoder._trunk).__call__
    monkeypatch.setattr(
        type(encoder._trunk),
        "__call__",
        lambda trunk, packed: rows.append(len(packed.ids)) or shown(trunk, packed),
    )
    for lengths in ([17, 9, 3], [60, 60, 30]):
        encoder.encode(Tokens.of(range(5, 5 + length) for length in lengths), normalize=True)
        own_kernels = encoder._means is not None
        assert encoder.num_places(tokens=sum(lengths), count=len(lengths), longest=lengths[0]) == (
            sum(lengths) if own_kernels else rows[-1]
        )


@pytest.mark.parametrize("alias", ["default", "large", "small"])
def test_a_row_in_a_batch_equals_the_text_alone(alias):
    with HybridClient(profile="tiny", dtype="float32", policy="local-only") as client:
        together = client.embed(HOSTILE, model=alias).vectors
        shuffled = client.embed(HOSTILE[::-1], model=alias).vectors[::-1]
        alone = np.vstack([client.embed(text, model=alias).vectors for text in HOSTILE])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, shuffled, atol=1e-5)


@pytest.mark.parametrize("alias", ["default", "large", "small"])
def test_the_generic_path_agrees_with_the_packed_one(alias):
    from hybrid_infer.local.embedding.encoders.generic import GenericEncoder

    path = find_snapshot(load_registry(profile="tiny").resolve("embeddings", alias))
    placement = Placement("cpu", "float32")
    packed = load_encoder(path, snapshot_facts(path), placement)
    assert isinstance(packed, PackedEncoder)
    generic = GenericEncoder(path, placement)
    sequences = Tokens.of([[5, 70, 6], [5, 9, 40, 41, 6], [5, 6]])
    for normalize in (True, False):
        import torch

        with torch.inference_mode():
            one = packed.encode(sequences, normalize=normalize)
            two = generic.encode(sequences, normalize=normalize)
        np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.real_weights
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0005), ("auto", 0.01)])
@pytest.mark.parametrize("alias", ["small", pytest.param("default", marks=pytest.mark.slow)])
def test_the_published_numbers(real_hub, alias, dtype, tolerance):
    if alias not in real_hub:
        pytest.skip("these weights were not fetched; ./scripts/test without --fast does")
    with HybridClient(policy="local-only", dtype=dtype) as client:
        result = client.embed(list(PUBLISHED), model=alias)
    a, b, c = result.vectors
    assert (a @ b, a @ c, b @ c) == pytest.approx(COSINES[alias], abs=tolerance)
    assert result.route.verified
    assert result.route.revision == load_registry().resolve("embeddings", alias).revision


@pytest.mark.real_weights
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alias", ["small", pytest.param("default", marks=pytest.mark.slow)])
def test_real_weights_on_hostile_texts(real_hub, alias, dtype):
    if alias not in real_hub:
        pytest.skip("these weights were not fetched; ./scripts/test without --fast does")
    with HybridClient(policy="local-only", dtype=dtype) as client:
        vectors = client.embed(HOSTILE, model=alias).vectors
    cosines = (vectors * reference(real_hub[alias], HOSTILE)).sum(1)
    assert cosines.min() >= BOUNDS[dtype]
