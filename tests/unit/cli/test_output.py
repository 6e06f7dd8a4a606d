import json

import pytest

from hybrid_infer import errors
from hybrid_infer.cli import output
from hybrid_infer.datatypes.route import Attempt, Reason, Route


def make_route(**changes):
    values = {
        "backend": "local",
        "provider": None,
        "model": "org/name",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "verified": True,
        "reason": Reason.RATE_LIMITED,
        "detail": "huggingface: slow down",
        "attempts": (Attempt("huggingface", Reason.RATE_LIMITED, "RateLimitError", 0.1, 2.0),),
        "latency_seconds": 0.25,
        "dtype": "bfloat16",
    }
    return Route(**{**values, **changes})


def with_attempts(error):
    error.attempts = (Attempt("huggingface", Reason.CONNECTION_FAILED, type(error).__name__, 0.1),)
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.InvalidRequestError("x", argument="texts[0]"), 2),
        (errors.ContextLengthError("x"), 2),
        (output.UsageFault("x"), 2),
        (errors.ModelNotDownloadedError("x"), 3),
        (errors.InsufficientMemoryError("x"), 3),
        (errors.AuthenticationError("x"), 3),
        (errors.APIConnectionError("x"), 3),
        (output.NotInstalled("x"), 3),
        (with_attempts(errors.APIConnectionError("x")), 1),
        (with_attempts(errors.AuthenticationError("x")), 1),
        (errors.RateLimitError("x"), 1),
        (errors.AllTargetsFailedError("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code):
    assert output.exit_code(error) == code


def test_an_error_is_one_line_and_its_next_steps_on_stderr(capsys):
    error = errors.RateLimitError("429 [not markup] from huggingface", retry_after=3.2)
    error.add_note("local was left out (not_downloaded): hybrid-infer pull embeddings/small")
    output.show_error(error, as_json=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "error: 429 [not markup] from huggingface",
        "  local was left out (not_downloaded): hybrid-infer pull embeddings/small",
        "  try again in 4 s",
    ]


def test_the_causes_of_a_joint_failure_are_listed(capsys):
    causes = [errors.APIConnectionError("refused"), errors.LocalEngineError("broken")]
    output.show_error(errors.AllTargetsFailedError("nobody", causes=causes), as_json=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == ["  APIConnectionError: refused", "  LocalEngineError: broken"]


def test_an_error_as_json_names_type_argument_and_exit_code(capsys):
    error = errors.InvalidRequestError("must be a string", argument="texts[3]")
    output.show_error(error, as_json=True)
    shown = json.loads(capsys.readouterr().out)["error"]
    assert shown["type"] == "InvalidRequestError"
    assert shown["argument"] == "texts[3]"
    assert shown["exit_code"] == 2


def test_attempts_are_plain_json(capsys):
    output.print_json({"route": make_route()})
    route = json.loads(capsys.readouterr().out)["route"]
    assert route["reason"] == "rate_limited"
    assert route["attempts"][0]["retry_after"] == 2.0


def test_the_route_line_says_who_and_why():
    line = output.route_line(make_route())
    assert line == (
        "served by the local copy (org/name@0123456) because rate limited: "
        "huggingface: slow down · bfloat16 · 0.25 s"
    )
    primary = make_route(
        backend="remote",
        provider="huggingface",
        revision=None,
        reason=Reason.PRIMARY,
        detail="",
        dtype=None,
    )
    assert output.route_line(primary) == "served by huggingface (org/name) · 0.25 s"


def test_a_long_detail_is_cut_to_one_readable_line():
    line = output.route_line(make_route(detail="first\nsecond " + "x" * 500))
    assert "\n" not in line
    assert len(line) < 260


def test_json_is_wanted_only_before_the_double_dash():
    assert output.wants_json(["chat", "--json", "hi"])
    assert not output.wants_json(["chat", "--", "--json"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("chat", "hi", "--json", "--max-tokens", "abc"), "--max-tokens"),
        (("embed", "--json", "--window", "0"), "--window"),
        (("verify", "--json"), "NAME"),
        (("chat", "hi", "--json", "--nope"), "--nope"),
        (("chat", "--json", "hi", "a", "b", "c"), "a b c"),
        (("chta", "--json"), "chta"),
        (("bundle", "--json"), "--json"),
    ],
)
def test_wrong_usage_with_json_is_an_error_on_stdout(run, words, part):
    done = run(*words)
    error = json.loads(done.out)["error"]
    assert (done.code, done.err) == (2, "")
    assert (error["type"], error["exit_code"]) == ("UsageFault", 2)
    assert part in error["message"]
    (step,) = error["next_steps"]
    assert step.startswith("`hybrid-infer ")


def test_wrong_usage_without_json_is_explained_on_stderr(run):
    done = run("chat", "hi", "--max-tokens", "abc")
    assert (done.code, done.out) == (2, "")
    assert "Usage: hybrid-infer chat" in done.err


def test_help_and_a_failed_check_keep_their_exit_codes_with_json(run):
    shown = run("chat", "--json", "--help")
    assert (shown.code, "Usage: hybrid-infer chat" in shown.out) == (0, True)
    assert run("doctor", "--json", "--no-network").code == 1
