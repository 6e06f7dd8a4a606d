import inspect

import pytest

from hybrid_infer import errors
from hybrid_infer.errors import (
    AllTargetsFailedError,
    HybridInferError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
)
from hybrid_infer.server.errors import answer_for

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, HybridInferError) and kind is not HybridInferError
]
CALLERS_OWN = {"InvalidRequestError", "ContextLengthError"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_a_shape(kind):
    answer = answer_for(kind("what happened"))
    detail = answer.document()["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    assert detail["message"] == "what happened"
    assert (answer.status == 400) == (kind.__name__ in CALLERS_OWN)
    assert answer.status != 401, "the client's key is not to blame"
    assert ("retry-after" in answer.headers()) == (answer.status in (429, 503))


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "1"), (0.01, "1"), (1.2, "2"), (59.0, "59"), (1e9, "3600")]
)
@pytest.mark.parametrize("kind", [OverloadedError, RateLimitError])
def test_waits_are_whole_seconds(kind, seconds, told):
    assert answer_for(kind("full", retry_after=seconds)).headers() == {"retry-after": told}


def test_the_earliest_wait_of_several_targets():
    causes = [RateLimitError("a", retry_after=9), OverloadedError("b", retry_after=4)]
    answer = answer_for(AllTargetsFailedError("all", causes=causes))
    assert (answer.status, answer.headers()) == (503, {"retry-after": "4"})


def test_arguments_have_the_names_of_the_request():
    error = InvalidRequestError("no", argument="texts[3]")
    assert answer_for(error, texts_name="inputs").argument == "inputs[3]"
    error = InvalidRequestError("no", argument="model")
    assert (answer_for(error).status, answer_for(error).code) == (404, "model_not_found")


def test_notes_are_told():
    error = RateLimitError("slow down")
    error.add_note("local: not downloaded")
    assert answer_for(error).message == "slow down; local: not downloaded"
