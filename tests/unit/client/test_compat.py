"""The shapes that users have in their code: held wrong, they name the argument."""

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def client():
    with HybridClient(profile="tiny", policy="local-only") as made:
        yield made


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda c: c.sentence_similarity("a", None), "other_sentences"),
        (lambda c: c.sentence_similarity("a", "some sentence"), "other_sentences"),
        (lambda c: c.sentence_similarity("a", ["b", 5]), "other_sentences[1]"),
        (lambda c: c.sentence_similarity(5, ["b"]), "sentence"),
        (lambda c: c.warm(None), "names"),
        (lambda c: c.unload(5), "names"),
        (lambda c: c.reset([]), "target"),
        (lambda c: c.reset("elsewhere"), "target"),
        (lambda c: create(c, extra_body=5), "extra_body"),
        (lambda c: create(c, extra_body={1: 2}), "extra_body"),
        (lambda c: create(c, extra_body={"model": "small"}), "model"),
        (lambda c: create(c, extra_body={"messages": []}), "messages"),
        (lambda c: create(c, top_k=3, extra_body={"top_k": 3}), "top_k"),
        (lambda c: create(c, max_tokens=3, extra_body={"max_completion_tokens": 3}), "max_tokens"),
        (lambda c: create(c, extra_body={"extra_query": {}}), "extra_query"),
    ],
)
def test_what_is_held_wrong_is_named(client, call, argument):
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.argument == argument


def create(client, **options):
    return client.chat.completions.create(messages=MESSAGES, **{"model": "small"} | options)


def test_extra_body_may_hold_any_option_of_openais(client):
    answer = create(client, extra_body={"max_completion_tokens": 2, "top_k": 1})
    assert answer.usage.completion_tokens <= 2
