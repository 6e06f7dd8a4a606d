import numpy as np
import pytest

from hybrid_infer.errors import ContextLengthError, InvalidRequestError
from hybrid_infer.testing import ChatEnd, EchoAnswers

ECHO = EchoAnswers()


def embed(model, texts, **options):
    return ECHO.embed(model, texts, **{"normalize": True, "truncate": True, **options})


def chat(messages, **options):
    *pieces, end = ECHO.chat("m", {"messages": messages, **options})
    return "".join(pieces), end


@pytest.mark.parametrize(
    ("model", "dim"),
    [
        ("sentence-transformers/all-mpnet-base-v2", 768),
        ("tiny/all-MiniLM-L6-v2", 384),
        ("embeddings/small", 384),
        ("large", 768),
        ("org/unknown", 384),
    ],
)
def test_the_packaged_dimensions(model, dim):
    vectors = embed(model, ["a", "b"])
    assert vectors.shape == (2, dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_vectors_depend_on_text_and_model_alone():
    one = embed("sentence-transformers/all-MiniLM-L6-v2", ["a", "b"])
    assert np.array_equal(one[1:], embed("tiny/all-MiniLM-L6-v2", ["b"]))
    assert not np.allclose(one[0], one[1])
    assert not np.allclose(one, embed("org/unknown", ["a", "b"]))
    assert EchoAnswers(dim=5).embed("m", ["a"], normalize=True, truncate=True).shape == (1, 5)


def test_vectors_are_the_same_everywhere():
    expected = [-0.018721818923950195, -0.21058082580566406, 0.5471127033233643]
    raw = EchoAnswers(3).embed("m", ["a"], normalize=False, truncate=True)[0]
    assert np.abs(raw).max() <= 1
    np.testing.assert_array_equal(
        raw, EchoAnswers(3).embed("x/m", ["a"], normalize=False, truncate=True)[0]
    )
    np.testing.assert_array_equal(raw, np.array(expected, np.float32))


def test_long_texts_are_cut_or_refused():
    long = "word " * 256
    np.testing.assert_array_equal(embed("small", [long + "more"]), embed("small", [long.strip()]))
    with pytest.raises(ContextLengthError):
        embed("small", [long + "more"], truncate=False)


def test_dim_must_be_positive():
    with pytest.raises(InvalidRequestError):
        EchoAnswers(0)


@pytest.mark.parametrize(
    ("content", "options", "text", "end"),
    [
        ("a b c", {}, "a b c", ChatEnd("stop", 4, 3)),
        ("a b c", {"max_tokens": 2}, "a b", ChatEnd("length", 4, 2)),
        ("a b c", {"max_tokens": 3}, "a b c", ChatEnd("stop", 4, 3)),
        ("a b END c", {"stop": "END"}, "a b", ChatEnd("stop", 5, 2)),
        ("a b c", {"stop": ["c", "b"]}, "a", ChatEnd("stop", 4, 1)),
        ([{"type": "text", "text": "a b"}], {}, "a b", ChatEnd("stop", 3, 2)),
        ("", {}, "", ChatEnd("stop", 1, 0)),
        (None, {}, "", ChatEnd("stop", 1, 0)),
    ],
)
def test_chat_echoes_the_last_message(content, options, text, end):
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": content}]
    assert chat(messages, **options) == (text, end)
