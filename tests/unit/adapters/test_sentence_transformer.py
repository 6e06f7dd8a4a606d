"""The stand-in beside the real SentenceTransformer, on the real MiniLM weights."""

import inspect

import numpy as np
import pytest
import torch

from hybrid_infer import HybridClient, InvalidRequestError
from hybrid_infer.adapters.sentence_transformer import SentenceTransformer

TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", ""]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def real(weights):
    import sentence_transformers

    return sentence_transformers.SentenceTransformer(
        str(weights / "all-MiniLM-L6-v2"), device="cpu"
    )


@pytest.fixture
def ours(real_hub):
    with HybridClient(policy="local-only", dtype="float32") as client:
        yield SentenceTransformer("small", client=client)


@pytest.fixture
def tiny(client):
    return SentenceTransformer("small", client=client)


@pytest.mark.real_weights
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize(
    "inputs", [TEXTS, TEXTS[0], tuple(TEXTS[:2])], ids=["many", "one", "tuple"]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "query: "},
        {"prompt_name": "document"},
        {"normalize_embeddings": True, "truncate_dim": 128},
        {"truncate_dim": 64},
        {"precision": "binary"},
        {"precision": "ubinary"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"batch_size": 2, "show_progress_bar": False},
    ],
    ids=str,
)
def test_it_returns_what_the_real_one_returns(real, ours, method, inputs, options):
    given = list(inputs) if isinstance(inputs, tuple) else inputs
    expected = getattr(real, method)(given, **options)
    found = getattr(ours, method)(inputs, **options)
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert [type(row) for row in found] == [type(row) for row in expected]
        found, expected = torch.stack(found), torch.stack(expected)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    if "precision" in options:
        # A number next to zero may fall on either side of it.
        assert (difference != 0).mean() < 0.02
    else:
        assert difference.max() < TOLERANCE


@pytest.mark.real_weights
def test_similarities_are_the_real_ones(real, ours):
    vectors = real.encode(TEXTS)
    for mine, theirs in (
        (ours.similarity(vectors, vectors), real.similarity(vectors, vectors)),
        (ours.similarity(vectors[0], vectors), real.similarity(vectors[0], vectors)),
        (ours.similarity_pairwise(vectors, vectors), real.similarity_pairwise(vectors, vectors)),
        (
            ours.similarity(torch.from_numpy(vectors), list(vectors)),
            real.similarity(torch.from_numpy(vectors), list(vectors)),
        ),
    ):
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    found = ours.similarity(ours.encode(TEXTS[:3]), ours.encode(TEXTS[:3]))
    np.testing.assert_allclose(found, published, atol=1e-4)
    assert ours.get_embedding_dimension() == real.get_embedding_dimension() == 384


def test_its_arguments_are_those_of_the_real_one():
    import sentence_transformers

    theirs = inspect.signature(sentence_transformers.SentenceTransformer.encode).parameters
    mine = inspect.signature(SentenceTransformer.encode).parameters
    served = [name for name in theirs if name not in ("pool", "chunk_size", "kwargs")]
    positional = [n for n, p in mine.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == served
    for name in served:
        if name != "inputs":  # ours may also be given as `sentences`
            assert mine[name].default == theirs[name].default, name


def test_one_text_is_one_vector_and_none_is_none(tiny):
    assert tiny.encode("a").shape == (384,)
    assert tiny.encode(["a"]).shape == (1, 384)
    assert tiny.encode([]).shape == (0, 384)
    assert tiny.encode(sentences=["a", "b"]).shape == (2, 384)
    assert tiny.encode("a").dtype == np.float32
    assert tiny.route.backend == "remote"


def test_a_dimension_of_its_own(client):
    short = SentenceTransformer("small", client=client, truncate_dim=10)
    assert short.get_embedding_dimension() == 10
    assert short.encode(["a", "b"]).shape == (2, 10)
    assert short.encode("a", truncate_dim=5).shape == (5,)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"output_value": "token_embeddings"}, "output_value"),
        ({"output_value": None}, "output_value"),
        ({"device": "cuda:7"}, "device"),
        ({"pool": {}}, "pool"),
        ({"prompt_name": "passage"}, "prompt_name"),
        ({"precision": "int3"}, "precision"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_not_served_is_refused(tiny, options, argument):
    with pytest.raises(InvalidRequestError) as caught:
        tiny.encode("a", **options)
    assert caught.value.argument == argument


def test_no_texts_at_all(tiny):
    with pytest.raises(InvalidRequestError, match="texts"):
        tiny.encode()
