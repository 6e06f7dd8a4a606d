"""What becomes of a broken stream: on which plan it goes on, or in which words it cannot."""

from dataclasses import replace

import pytest

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import ModelNotDownloadedError
from hybrid_infer.routing.continuation import BrokenStream, continuation_plan
from hybrid_infer.routing.policy import LOCAL, RemoteFact, make_plan, unsupported_locally
from hybrid_infer.routing.targets import Exclusion, Readiness, ReadinessState, Target

REMOTE, OTHER = Target("huggingface", "remote"), Target("box", "remote")
WARM = Readiness(ReadinessState.WARM)
COLD = Readiness(ReadinessState.COLD, 3.0)
NOT_HERE = ModelNotDownloadedError("run: hybrid-infer pull chat/small")
ABSENT = Readiness(
    ReadinessState.ABSENT, exclusion=Exclusion(LOCAL, Reason.NOT_DOWNLOADED, "", NOT_HERE)
)


def plan(policy="remote-first", local=COLD, unsupported=None):
    facts = [RemoteFact(REMOTE), RemoteFact(OTHER)]
    return make_plan(policy=policy, route=None, remotes=facts, local=local, unsupported=unsupported)


def broken(
    *, served_by=REMOTE, has_text=True, has_tools=False, may_continue=True, needs_whole=None
):
    return BrokenStream(served_by, has_text, has_tools, may_continue, needs_whole)


def test_a_text_goes_on_at_the_local_copy_and_nowhere_else():
    made = continuation_plan(plan(), broken(), WARM)
    assert made.targets == made.order == (LOCAL,)
    assert made.local is WARM
    assert made.exclusions == ()


@pytest.mark.parametrize("local", [WARM, COLD])
def test_a_quantised_copy_is_another_model_in_the_middle_of_a_text(local):
    quantized = replace(local, may_be_quantized=True)
    why = continuation_plan(plan(), broken(), quantized)
    assert why == "the local copy is quantised: it would go on as another model"
    over = continuation_plan(plan(), broken(has_text=False), quantized)
    assert LOCAL in over.targets, "as a fallback it may serve: its alias allows that"


def test_before_any_text_all_others_come_first_and_then_the_same_again():
    made = continuation_plan(plan(), broken(has_text=False), WARM)
    assert made.targets == (OTHER, LOCAL, REMOTE)
    assert made.order == (REMOTE, OTHER, LOCAL), "the policy's order says what was wanted"
    assert made.local is WARM
    made = continuation_plan(plan(), broken(served_by=LOCAL, has_text=False), WARM)
    assert made.targets == (REMOTE, OTHER, LOCAL)


@pytest.mark.parametrize(
    ("stream", "policy", "unsupported", "local", "why"),
    [
        ({"may_continue": False}, "remote-first", None, WARM, "on_stream_error='raise'"),
        (
            {"may_continue": False, "has_text": False},
            "remote-first", None, WARM, "on_stream_error='raise'",
        ),
        ({"has_tools": True}, "remote-first", None, WARM, "a tool call cannot be continued"),
        (
            {"has_tools": True, "has_text": False},
            "remote-first", None, WARM, "a tool call cannot be continued",
        ),
        ({"served_by": LOCAL}, "local-first", None, WARM, "it was the local copy's own"),
        (
            {}, "remote-only", None, WARM,
            "the local copy cannot take over: the policy or route= leaves it out",
        ),
        (
            {}, "remote-first", unsupported_locally("logit_bias"), WARM,
            "the local copy cannot take over: the local copy cannot honour 'logit_bias'",
        ),
        (
            {"needs_whole": "logprobs"}, "remote-first", None, WARM,
            "an answer with logprobs cannot be continued",
        ),
        ({}, "remote-first", None, ABSENT, "the local copy is not ready within 5 s"),
        (
            {}, "remote-first", None, Readiness(ReadinessState.COLD, 5.1),
            "the local copy is not ready within 5 s",
        ),
    ],
)  # fmt: skip
def test_why_a_stream_cannot_go_on(stream, policy, unsupported, local, why):
    started = plan(policy, unsupported=unsupported)
    assert continuation_plan(started, broken(**stream), local) == why


def test_a_copy_that_was_absent_from_the_start_says_what_would_bring_it_in():
    why = continuation_plan(plan(local=ABSENT), broken(), WARM)
    assert why == f"the local copy cannot take over: {NOT_HERE.message}"


def test_a_copy_that_is_ready_in_five_seconds_is_waited_for():
    made = continuation_plan(plan(), broken(), Readiness(ReadinessState.LOADING, 5.0))
    assert made.targets == (LOCAL,)
