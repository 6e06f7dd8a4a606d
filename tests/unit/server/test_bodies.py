import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer import InvalidRequestError
from hybrid_infer.server.bodies import check_depth, parsed
from hybrid_infer.server.errors import RefusedError
from hybrid_infer.server.schemas import ChatBody, EmbeddingsBody, FeaturesBody

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("kind", "document", "argument"),
    [
        (EmbeddingsBody, {}, "input"),
        (EmbeddingsBody, {"input": 3}, "input"),
        (EmbeddingsBody, {"input": ["a", 3]}, "input[1]"),
        (EmbeddingsBody, {"input": "a", "colour": 1}, "colour"),
        (EmbeddingsBody, {"input": "a", "model": 1}, "model"),
        (EmbeddingsBody, {"input": "a", "dimensions": "9"}, "dimensions"),
        (FeaturesBody, {"inputs": "a", "options": {"path": "/etc"}}, "options.path"),
        (FeaturesBody, {"inputs": "a", "prompt_name": "q"}, "prompt_name"),
        (FeaturesBody, {"inputs": "a", "truncation_direction": "Left"}, "truncation_direction"),
        (ChatBody, {"messages": []}, "messages"),
        (ChatBody, {"messages": ["hi"]}, "messages[0]"),
        (ChatBody, CHAT | {"stream": "yes"}, "stream"),
        (ChatBody, CHAT | {"n": True}, "n"),
        (ChatBody, CHAT | {"stop": [""]}, "stop[0]"),
        (ChatBody, CHAT | {"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ],
)
def test_the_field_at_fault_is_named(kind, document, argument):
    with pytest.raises(RefusedError) as caught:
        parsed(document, kind)
    assert caught.value.answer.argument == argument


@pytest.mark.parametrize(
    "option",
    [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"temperature": 1}, {"stop": "a"}],
)
def test_options_beyond_openai_s(option):
    body = parsed(CHAT | option, ChatBody)
    (name,) = option
    assert getattr(body, name) == option[name]


def nested(depth):
    document = "x"
    for level in range(depth):
        document = [document] if level % 2 else {"a": document}
    return document


@pytest.mark.parametrize("most", [4, 16])
def test_depth_is_counted_exactly(most):
    check_depth(nested(most), most)
    with pytest.raises(InvalidRequestError, match=f"more than {most} deep"):
        check_depth(nested(most + 1), most)


@given(st.integers(2_000, 50_000))
def test_depth_needs_no_recursion(depth):
    with pytest.raises(InvalidRequestError):
        check_depth(nested(depth), 16)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@pytest.mark.parametrize("kind", [ChatBody, EmbeddingsBody, FeaturesBody])
def test_any_json_is_a_body_or_one_typed_error(kind, value):
    document = value if isinstance(value, dict) else {"input": value, "messages": value}
    try:
        parsed(document, kind)
    except RefusedError as error:
        assert error.answer.argument is not None  # noqa: PT017 - most documents are wrong, not all
