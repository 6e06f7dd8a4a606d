"""The table of statuses, and what is made of error bodies of every shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import (
    APITimeoutError,
    AuthenticationError,
    ContextLengthError,
    HybridInferError,
    InvalidRequestError,
    ModelLoadingError,
    ModelNotAvailableError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    RemoteProtocolError,
    RemoteServerError,
)
from hybrid_infer.remote.keys import Secret
from hybrid_infer.remote.responses import Asked, refusal, refusal_in_stream

KEY = "hf_" + "k" * 30
ASKED = Asked("router.huggingface.co", "org/name", Secret(KEY), ("a private text of the caller",))


def refused(status: int, document: object = None, **headers: str) -> HybridInferError:
    fields = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return refusal(status, fields, json.dumps(document).encode(), ASKED)


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (400, {"error": "bad"}, InvalidRequestError),
        (400, {"error": {"message": "no", "code": "model_not_supported"}}, ModelNotAvailableError),
        (400, {"error": "Model x not supported by provider hf-inference"}, ModelNotAvailableError),
        (401, {"error": "Invalid credentials"}, AuthenticationError),
        (402, {"error": "You have exceeded your monthly included credits"}, QuotaExceededError),
        (403, {"error": "gated"}, ModelNotAvailableError),
        (404, {"error": "Not Found"}, ModelNotAvailableError),
        (405, None, RemoteServerError),
        (408, None, APITimeoutError),
        (410, None, ModelNotAvailableError),
        (413, {"error": "length limit exceeded"}, RemoteServerError),
        (422, {"error": "bad"}, InvalidRequestError),
        (422, {"detail": [{"msg": "field required", "input": "x"}]}, InvalidRequestError),
        (424, {"error": "backend", "error_type": "Backend"}, RemoteServerError),
        (429, {"error": "Too many requests"}, RateLimitError),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, QuotaExceededError),
        (429, {"error": "Model is overloaded", "error_type": "Overloaded"}, OverloadedError),
        (500, None, RemoteServerError),
        (502, "<html>", RemoteServerError),
        (503, {"error": "unhealthy", "error_type": "Unhealthy"}, RemoteServerError),
        (503, {"error": "Model x is currently loading", "estimated_time": 20.0}, ModelLoadingError),
        (503, {"error": "Model x is currently loading"}, ModelLoadingError),
        (504, None, APITimeoutError),
        (302, None, RemoteProtocolError),
    ],
)
def test_the_table(status, document, kind):
    error = refused(status, document)
    assert type(error) is kind
    assert error.status == status
    assert f"HTTP {status}" in error.message
    assert "router.huggingface.co" in error.message


@pytest.mark.parametrize(
    ("host", "document", "kind"),
    [
        ("x1.eu-west-1.aws.endpoints.huggingface.cloud", None, ModelLoadingError),
        ("x1.endpoints.huggingface.cloud:443", "503 Service Unavailable", ModelLoadingError),
        (
            "x1.endpoints.huggingface.cloud",
            {"error": "unhealthy", "error_type": "Unhealthy"},
            RemoteServerError,
        ),
        ("endpoints.huggingface.cloud.example.com", None, RemoteServerError),
        ("box.lan:8080", None, RemoteServerError),
        ("box.lan:8080", {"error": "Endpoint is scaled to zero"}, ModelLoadingError),
        ("box.lan:8080", {"error": "replica is initializing"}, ModelLoadingError),
        ("box.lan:8080", {"error": "unloading"}, RemoteServerError),
    ],
)
def test_a_dedicated_endpoint_that_is_scaled_to_zero_is_loading(host, document, kind):
    body = json.dumps(document).encode() if document else b""
    asked = Asked(host, "org/name")
    assert type(refusal(503, [], body, asked)) is kind
    assert type(refusal(502, [], body, asked)) is RemoteServerError


def test_tei_s_word_for_bad_input_is_not_taken_for_a_body_that_may_be_split():
    error = refused(413, {"error": "`inputs` cannot be empty", "error_type": "Validation"})
    assert type(error) is InvalidRequestError
    assert error.status == 422
    split = {"error": "batch size 33 > maximum allowed batch size 32", "error_type": "Validation"}
    for status in (413, 422):
        assert type(refused(status, split)) is RemoteServerError
        assert refused(status, split).status == 413


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "the request exceeds the available context size",
        "Prompt is too long",
    ],
)
def test_a_text_that_is_too_long_in_each_server_s_words(status, message):
    for document in ({"error": message}, {"error": {"message": message}}, {"message": message}):
        error = refused(status, document)
        assert type(error) is ContextLengthError
        assert error.status == status


def test_a_code_alone_says_that_a_prompt_is_too_long():
    document = {"error": {"message": "no", "code": "context_length_exceeded"}}
    assert type(refused(400, document)) is ContextLengthError


def test_a_batch_that_is_too_large_can_be_halved_whatever_its_status():
    error = refused(422, {"error": "batch size 32 > maximum allowed batch size 16"})
    assert type(error) is RemoteServerError
    assert error.status == 413


def test_waits_are_attached():
    assert refused(429, None, Retry_After="7").retry_after == 7
    assert refused(429, None, RateLimit='"api";r=0;t=55').retry_after == 55
    assert refused(503, {"error": "loading", "estimated_time": 20}).retry_after == 20
    assert refused(500, None, Retry_After="3").retry_after == 3
    assert refused(429).retry_after is None


def test_a_gated_model_names_its_page():
    assert "https://huggingface.co/org/name" in refused(403).message


def test_a_refused_key_names_the_page_of_keys():
    assert "https://huggingface.co/settings/tokens" in refused(401).message


def test_messages_never_hold_the_key_a_text_or_control_characters():
    said = f"key {KEY}, other hf_{'z' * 25}, text 'a private text of the caller' \r\n\x00\x1b[31m"
    message = refused(400, {"error": said}).message
    assert KEY not in message
    assert "hf_z" not in message
    assert "private" not in message
    assert message.isprintable()


def test_a_huge_message_is_cut():
    assert len(refused(500, {"error": "x" * 1_000_000}).message) < 500


def test_html_is_not_repeated():
    error = refusal(502, [], b"<html><body>Bad gateway</body></html>", ASKED)
    assert "Bad gateway" not in error.message


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"error": {"message": "x", "code": 402}}, QuotaExceededError),
        ({"error": {"message": "x", "http_status_code": "429"}}, RateLimitError),
        ({"error": "x", "status_code": 503}, RemoteServerError),
        ({"error": "x", "error_type": "validation"}, InvalidRequestError),
        ({"error": "x", "error_type": "overloaded"}, OverloadedError),
        ({"error": "x", "error_type": "incomplete_generation"}, RemoteServerError),
        ({"error": "x"}, RemoteServerError),
        ({"error": {"message": "x", "code": 99999999999}}, RemoteServerError),
        ("x", RemoteServerError),
        (None, RemoteServerError),
    ],
)
def test_errors_inside_a_stream(document, kind):
    assert type(refusal_in_stream(document, ASKED)) is kind


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "error_type", "detail", "status"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
STATUSES = st.sampled_from([300, 400, 401, 402, 403, 404, 413, 418, 422, 424, 429, 500, 503, 599])


@given(STATUSES, JSON.map(lambda document: json.dumps(document).encode()) | st.binary())
def test_no_body_breaks_the_table(status, body):
    error = refusal(status, [], body, ASKED)
    assert isinstance(error, HybridInferError)
    assert error.status in (status, 413)


@given(JSON)
def test_no_event_breaks_the_table(document):
    assert isinstance(refusal_in_stream(document, ASKED), HybridInferError)


def test_deeply_nested_bodies_are_read_without_harm():
    for body in (b"[" * 100_000, b"[" * 500 + b"]" * 500, b'{"error":' * 400 + b"1" + b"}" * 400):
        assert type(refusal(500, [], body, ASKED)) is RemoteServerError
