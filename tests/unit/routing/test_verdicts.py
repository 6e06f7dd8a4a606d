"""The table of errors: complete, and consistent with itself."""

import pytest

from hybrid_infer import errors
from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import HybridInferError
from hybrid_infer.routing.verdicts import VERDICTS, Retry, verdict_for

# These end a call, or are raised where no call is routed.
NEVER_A_TRYS = {errors.AllTargetsFailedError, errors.UnverifiableError}


def classes(root=HybridInferError):
    """The library's public errors, whatever else some import has derived from them."""
    for kind in root.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
        yield from classes(kind)


@pytest.mark.parametrize("kind", sorted(set(classes()) - NEVER_A_TRYS, key=lambda k: k.__name__))
def test_every_error_of_a_try_has_a_row(kind):
    assert any(base in VERDICTS for base in kind.__mro__)


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


def test_three_statuses_have_rows_of_their_own():
    gated = errors.ModelNotAvailableError("no")
    gated.status = 403
    assert verdict_for(gated).gate.seconds == 300.0
    assert verdict_for(errors.ModelNotAvailableError("no")).gate.seconds == 3600.0
    large = errors.InvalidRequestError("no")
    large.status = 413
    assert verdict_for(large).falls_back
    whole = errors.RemoteProtocolError("no")
    whole.status = 200
    assert verdict_for(whole).retry is Retry.NEVER
    assert verdict_for(errors.RemoteProtocolError("cut")).retry is Retry.JITTERED


def test_what_is_unknown_does_not_travel_on():
    class Unheard(HybridInferError):
        pass

    assert not verdict_for(Unheard("?")).falls_back
