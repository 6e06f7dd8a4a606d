import pytest

from hybrid_infer.datatypes.route import Reason
from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    InvalidRequestError,
    ModelNotDownloadedError,
)
from hybrid_infer.routing.policy import (
    LOCAL,
    RemoteFact,
    check_route,
    make_plan,
    unsupported_locally,
)
from hybrid_infer.routing.targets import Exclusion, Readiness, ReadinessState, Target

REMOTE = Target("huggingface", "remote")
BOX = Target("box", "remote")
HEALTHY = (RemoteFact(REMOTE),)
WARM = Readiness(ReadinessState.WARM)
ABSENT = Readiness(
    ReadinessState.ABSENT,
    exclusion=Exclusion(
        LOCAL,
        Reason.NOT_DOWNLOADED,
        "",
        ModelNotDownloadedError("run: hybrid-infer pull embeddings/small"),
    ),
)
NO_KEY = RemoteFact(
    REMOTE, Exclusion(REMOTE, Reason.NO_API_KEY, "", AuthenticationError("set HF_TOKEN"))
)
OFFLINE = RemoteFact(
    REMOTE, Exclusion(REMOTE, Reason.OFFLINE, "", APIConnectionError("HF_HUB_OFFLINE is set"))
)


def plan(policy="remote-first", route=None, remotes=HEALTHY, local=WARM, unsupported=None):
    return make_plan(
        policy=policy, route=route, remotes=remotes, local=local, unsupported=unsupported
    )


@pytest.mark.parametrize(
    ("policy", "route", "expected"),
    [
        ("remote-first", None, ["huggingface", "box", "local"]),
        ("local-first", None, ["local", "huggingface", "box"]),
        ("remote-only", None, ["huggingface", "box"]),
        ("local-only", None, ["local"]),
        ("remote-first", "local", ["local"]),
        ("remote-first", "remote", ["huggingface", "box"]),
        ("remote-first", "box", ["box"]),
        ("local-first", "box", ["box"]),
        ("local-only", "local", ["local"]),
    ],
)
def test_order(policy, route, expected):
    made = plan(policy, route, remotes=(RemoteFact(REMOTE), RemoteFact(BOX)))
    assert [target.name for target in made.targets] == expected
    assert made.requested == (route is not None)


@pytest.mark.parametrize(
    ("policy", "route"), [("remote-only", "local"), ("local-only", "remote"), ("local-only", "box")]
)
def test_a_forbidden_route(policy, route):
    with pytest.raises(InvalidRequestError, match="forbidden") as caught:
        check_route(route, policy, ["huggingface", "box"])
    assert caught.value.argument == "route"


@pytest.mark.parametrize(
    ("policy", "route"),
    [
        ("remote-only", None),
        ("remote-only", "remote"),
        ("remote-only", "box"),
        ("local-only", None),
        ("local-only", "local"),
        ("remote-first", "local"),
        ("remote-first", "box"),
        ("local-first", "remote"),
        ("local-first", "local"),
    ],
)
def test_every_other_route_is_allowed(policy, route):
    check_route(route, policy, ["huggingface", "box"])


def test_an_unknown_route_lists_the_choices():
    with pytest.raises(InvalidRequestError, match="local, remote, huggingface") as caught:
        check_route("moon", "remote-first", ["huggingface"])
    assert caught.value.argument == "route"


def test_nothing_configured_says_so():
    with pytest.raises(APIConnectionError, match=r"^no remote is configured, and the policy"):
        plan("remote-only", remotes=())


def test_two_ways_out_are_both_in_the_message():
    box = Exclusion(BOX, Reason.NO_API_KEY, "", AuthenticationError("unset BOX_KEY"))
    with pytest.raises(ModelNotDownloadedError, match=r"; or use the remote: set HF_TOKEN; unset"):
        plan(remotes=(NO_KEY, RemoteFact(BOX, box)), local=ABSENT)


def test_of_several_reasons_the_callers_own_option_is_told_first():
    with pytest.raises(InvalidRequestError, match="cannot honour 'tools'") as caught:
        plan(remotes=(OFFLINE,), unsupported=unsupported_locally("tools"))
    assert caught.value.__notes__ == [
        "huggingface was left out (offline): HF_HUB_OFFLINE is set",
    ]


def test_nothing_left_names_both_fixes():
    with pytest.raises(ModelNotDownloadedError, match=r"pull embeddings/small.*set HF_TOKEN"):
        plan(remotes=(NO_KEY,), local=ABSENT)


def test_remote_only_without_a_key():
    with pytest.raises(AuthenticationError, match="HF_TOKEN"):
        plan("remote-only", remotes=(NO_KEY,))


def test_nothing_left_because_offline_names_the_variable():
    with pytest.raises(APIConnectionError, match="HF_HUB_OFFLINE") as caught:
        plan(remotes=(OFFLINE,), local=ABSENT)
    assert "pull embeddings/small" in caught.value.__notes__[0]


def test_an_unsupported_option_only_removes_local():
    made = plan(unsupported=unsupported_locally("tools"))
    assert [target.name for target in made.targets] == ["huggingface"]
    assert (made.exclusions[0].reason, made.exclusions[0].detail) == (Reason.UNSUPPORTED, "tools")
    assert [target.name for target in made.order] == ["huggingface", "local"]
    with pytest.raises(InvalidRequestError) as caught:
        plan("local-only", unsupported=unsupported_locally("tools"))
    assert caught.value.argument == "tools"


def test_errors_are_fresh_for_every_call():
    def once():
        with pytest.raises(AuthenticationError) as caught:
            plan("remote-only", remotes=(NO_KEY,))
        return caught.value

    assert once() is not once()
