import json

from hybrid_infer.testing import Reply


def test_a_prompt_is_answered_on_stdout_and_the_route_goes_to_stderr(run, remotely):
    done = run("chat", "low latency is good", "--model", "small", *remotely)
    assert (done.code, done.out) == (0, "low latency is good\n")
    assert done.err.startswith("served by huggingface (microsoft/Phi-3-mini-4k-instruct)")


def test_quiet_says_only_the_answer(run, remotely):
    done = run("chat", "hello", "-m", "small", "-q", *remotely)
    assert (done.out, done.err) == ("hello\n", "")


def test_stdin_is_the_prompt_with_a_dash_and_without_a_prompt(run, remotely):
    for words in (["chat", "-"], ["chat"]):
        done = run(*words, "-m", "small", *remotely, stdin="from a pipe\n")
        assert done.out == "from a pipe\n"


def test_an_empty_pipe_is_a_usage_error(run, remotely):
    done = run("chat", *remotely, stdin="")
    assert done.code == 2
    assert "the prompt on stdin is empty" in done.err


def test_options_reach_the_remote(run, remotely, echo):
    done = run(
        "chat", "a b c", "-m", "small", "--system", "be brief", "--max-tokens", 2, "--seed", 7,
        "--temperature", 0.5, "--top-p", 0.9, "--stop", "x", "--stop", "y", "--no-stream", *remotely,
    )  # fmt: skip
    assert done.out == "a b\n"
    body = echo.ledger[-1].body_json
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["max_tokens"], body["seed"], body["stop"]) == (2, 7, ["x", "y"])
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    assert not body.get("stream")


def test_json_holds_answer_usage_and_route(run, remotely):
    done = run("chat", "a b c", "-m", "small", "--max-tokens", 2, "--json", *remotely)
    answer = json.loads(done.out)
    assert answer["content"] == "a b"
    assert answer["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert answer["route"]["provider"] == "huggingface"


def test_a_rate_limit_falls_back_to_the_local_copy_and_says_so(run, echo):
    echo.enqueue(Reply(status=429, headers={"Retry-After": "30"}))
    done = run("chat", "hi", "--profile", "tiny", "--base-url", echo.url, "--max-tokens", 4)
    assert done.code == 0
    assert done.out.strip()
    assert "the local copy" in done.err
    assert "because rate limited" in done.err


def test_a_failed_call_is_one_readable_error_with_exit_code_1(run, remotely, echo):
    echo.enqueue(Reply(status=402, json={"error": "You have exceeded your credits"}), times=9)
    done = run("chat", "hi", *remotely)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    failed = run("chat", "hi", "--json", *remotely)
    assert failed.code == 1
    assert json.loads(failed.out)["error"]["type"] == "QuotaExceededError"


def test_wrong_arguments_exit_2(run, remotely):
    for words in (["--model", "smal"], ["--temperature", "-1"], ["--route", "nowhere"]):
        done = run("chat", "hi", *words, *remotely)
        assert done.code == 2
        assert done.err.startswith("error: ")
    assert run("chat", "hi", "--policy", "sometimes").code == 2
    assert run("chat", "hi", "--no-such-option").code == 2
    assert run("chat", "--json", *remotely).code == 2


def test_nothing_downloaded_and_no_key_exits_3_and_names_both_fixes(run):
    done = run("chat", "hi", "--model", "small")
    assert done.code == 3
    assert "hybrid-infer pull chat/small" in done.err
    assert "https://huggingface.co/settings/tokens" in done.err


def test_a_stream_that_breaks_keeps_what_was_said_and_fails(run, remotely, echo):
    echo.enqueue(Reply(cut_after_events=2), times=9)
    done = run("chat", "one two three four", "-m", "small", *remotely)
    assert done.code == 1
    assert done.out.startswith("one")
    assert "error: " in done.err


def test_without_a_prompt_a_conversation_begins(run, remotely):
    done = run("chat", "-m", "small", *remotely)  # the terminal ends at once, like Ctrl-D
    assert done.code == 0
    assert "/help for commands" in done.err
