import pytest

from hybrid_infer import ServerSettings
from hybrid_infer.server.admission import Admission
from hybrid_infer.server.errors import RefusedError


@pytest.fixture
def admission(clock):
    return Admission(ServerSettings(max_requests=2, max_waiting_texts=10), clock)


def refused(context):
    with pytest.raises(RefusedError) as caught, context:
        pass
    assert caught.value.answer.status == 429
    return caught.value.answer


def test_requests_are_bounded_and_given_back(admission):
    with admission.request(), admission.request():
        refused(admission.request())
        assert admission.requests == 2
    assert admission.requests == 0
    with pytest.raises(ZeroDivisionError), admission.request():
        raise ZeroDivisionError
    assert admission.requests == 0
    assert admission.refused == 1


def test_the_gate_can_ask_whether_there_is_room_without_taking_it(admission):
    admission.check_requests()
    with admission.request(), admission.request(), pytest.raises(RefusedError):
        admission.check_requests()
    assert admission.requests == 0
    assert admission.refused == 1


def test_texts_are_bounded_but_for_one_request_alone(admission):
    with admission.waiting(50):
        refused(admission.waiting(1))
    with admission.waiting(9), admission.waiting(1):
        refused(admission.waiting(1))
        assert admission.texts == 10
    assert (admission.texts, admission.most_texts) == (0, 50)


def test_a_refusal_says_how_long_requests_take(admission, clock):
    with admission.request():
        clock.advance(7.2)
    with admission.request(), admission.request():
        assert refused(admission.request()).headers() == {"retry-after": "8"}
