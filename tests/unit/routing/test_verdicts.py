"""From an error to what follows: the design's table, one row a line, read by class and status."""

import pytest

from hybrid_infer import errors
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    AllTargetsFailedError,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigError,
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
    StreamInterruptedError,
    UnverifiableError,
)
from hybrid_infer.routing.verdicts import VERDICTS, Retry, Scope, verdict_for

HOUR, FIVE_MINUTES = 3600.0, 300.0
NEVER, JITTERED = Retry.NEVER, Retry.JITTERED


def with_status(kind, status):
    error = kind("x")
    error.status = status
    return error


@pytest.mark.parametrize(
    ("kind", "status", "reason", "retry", "counts", "gate"),
    [
        (RateLimitError, 429, Reason.RATE_LIMITED, Retry.AFTER_WAIT, None, (Scope.ACCOUNT, None)),
        (OverloadedError, 429, Reason.OVERLOADED, JITTERED, None, (Scope.MODEL, None)),
        (QuotaExceededError, 402, Reason.QUOTA_EXCEEDED, NEVER, None, (Scope.ACCOUNT, HOUR)),
        (AuthenticationError, 401, Reason.AUTHENTICATION, NEVER, None,
         (Scope.ACCOUNT, FIVE_MINUTES)),
        (ModelNotAvailableError, 403, Reason.MODEL_UNAVAILABLE, NEVER, None,
         (Scope.MODEL, FIVE_MINUTES)),
        (ModelNotAvailableError, 404, Reason.MODEL_UNAVAILABLE, NEVER, None, (Scope.MODEL, HOUR)),
        (ModelNotAvailableError, 410, Reason.MODEL_UNAVAILABLE, NEVER, None, (Scope.MODEL, HOUR)),
        (ModelNotAvailableError, 400, Reason.MODEL_UNAVAILABLE, NEVER, None, (Scope.MODEL, HOUR)),
        (ModelLoadingError, 503, Reason.MODEL_LOADING, Retry.POLL, None, (Scope.MODEL, None)),
        (RemoteServerError, 500, Reason.SERVER_ERROR, JITTERED, Scope.MODEL, None),
        (RemoteServerError, 403, Reason.SERVER_ERROR, JITTERED, Scope.MODEL, None),
        (RemoteServerError, 424, Reason.SERVER_ERROR, JITTERED, Scope.MODEL, None),
        (RemoteServerError, None, Reason.SERVER_ERROR, JITTERED, Scope.MODEL, None),
        (RemoteServerError, 413, Reason.TOO_LARGE, NEVER, None, None),
        (RemoteProtocolError, 413, Reason.TOO_LARGE, NEVER, None, None),
        (RemoteProtocolError, 200, Reason.BAD_RESPONSE, NEVER, Scope.MODEL, None),
        (RemoteProtocolError, None, Reason.BAD_RESPONSE, JITTERED, Scope.MODEL, None),
        (StreamInterruptedError, None, Reason.BAD_RESPONSE, JITTERED, Scope.MODEL, None),
        (APITimeoutError, None, Reason.TIMEOUT, JITTERED, Scope.MODEL, None),
        (APITimeoutError, 504, Reason.TIMEOUT, JITTERED, Scope.MODEL, None),
        (APIConnectionError, None, Reason.CONNECTION_FAILED, NEVER, Scope.HOST, None),
    ],
)  # fmt: skip
def test_what_follows_from_a_remotes_failure(kind, status, reason, retry, counts, gate):
    verdict = verdict_for(with_status(kind, status))
    assert verdict.falls_back
    assert (verdict.reason, verdict.retry, verdict.counts_against) == (reason, retry, counts)
    closes = verdict.gate and (verdict.gate.scope, verdict.gate.seconds)
    assert closes == gate


@pytest.mark.parametrize("kind", [InvalidRequestError, ContextLengthError])
@pytest.mark.parametrize("status", [None, 400, 422])
def test_the_callers_mistake_goes_nowhere_else_and_closes_nothing(kind, status):
    verdict = verdict_for(with_status(kind, status))
    assert not verdict.falls_back
    assert (verdict.retry, verdict.counts_against, verdict.gate) == (NEVER, None, None)


@pytest.mark.parametrize(
    ("kind", "verdict"), VERDICTS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_rows_are_consistent(kind, verdict):
    assert verdict.reason in Reason
    if not verdict.falls_back:
        assert verdict.retry is Retry.NEVER
        assert verdict.gate is None
        assert verdict.counts_against is None
    if verdict.gate is not None:  # a named wait is no failure
        assert verdict.counts_against is None
        assert verdict.gate.least_seconds <= verdict.gate.most_seconds
    assert issubclass(kind, HybridInferError)


def test_a_class_of_ones_own_has_its_nearest_base_s_row():
    class GatewayError(RemoteServerError):
        pass

    assert verdict_for(GatewayError("x", status=502)) is VERDICTS[RemoteServerError]


def test_what_nobody_expected_ends_the_call():
    verdict = verdict_for(HybridInferError("x"))
    assert (verdict.falls_back, verdict.retry) == (False, NEVER)


def test_every_error_that_a_target_can_end_with_has_a_row():
    ends_a_call_itself = {HybridInferError, ConfigError, UnverifiableError, AllTargetsFailedError}
    about_files = {errors.BulkDataError, errors.CheckpointError, errors.MissingExtraError}
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HybridInferError)
    }
    for kind in kinds - ends_a_call_itself - about_files:
        assert any(base in VERDICTS for base in kind.__mro__), kind


def test_only_spent_credits_need_one_call_to_go_first():
    probing = [
        kind for kind, verdict in VERDICTS.items() if getattr(verdict.gate, "needs_probe", 0)
    ]
    assert probing == [QuotaExceededError]
