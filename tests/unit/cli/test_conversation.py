import builtins
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from hybrid_infer.cli.conversation import Conversation
from hybrid_infer.datatypes.chat import ChatChunk, ChatDelta, ChunkChoice
from hybrid_infer.datatypes.route import Attempt, Reason, Route
from hybrid_infer.errors import RateLimitError

ROUTE = Route(
    backend="remote",
    provider="huggingface",
    model="org/name",
    revision=None,
    verified=True,
    reason=Reason.PRIMARY,
    detail="",
    attempts=(Attempt("huggingface", None, None, 0.1),),
    latency_seconds=0.1,
)


class ScriptedClient:
    """Streams the pieces of each scripted answer; an exception among them is raised there."""

    policy = "remote-first"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []
        self.warmed = []

    def status(self):
        return {"policy": self.policy, "remotes": {"huggingface": {}}}

    def list_models(self):
        return [
            {"task": task, "alias": alias, "repo": f"org/{alias}", "local": "cold"}
            for task, alias in (("chat", "small"), ("chat", "other"), ("embeddings", "mini"))
        ]

    def warm(self, name):
        self.warmed.append(name)

    def chat_completion(self, messages, **options):
        self.calls.append(SimpleNamespace(messages=[dict(m) for m in messages], **options))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return nullcontext(self.stream(answer))

    def stream(self, pieces):
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            choice = ChunkChoice(0, ChatDelta(content=piece))
            yield ChatChunk("id", 0, "org/name", (choice,), None, ROUTE)


@pytest.fixture
def talk(monkeypatch):
    def run(client, *lines, quiet=True, system=None):
        script = iter(lines)

        def read(_prompt):
            line = next(script, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", read)
        sampling = {"model": "small", "route": None}
        conversation = Conversation(client, sampling, system=system, quiet=quiet)
        conversation.run()
        for load in conversation._warming._loads.values():  # threads of their own
            load.join(60)

    return run


def test_turns_are_remembered_and_the_system_message_leads(talk, capsys):
    client = ScriptedClient(["Hel", "lo"], ["again"])
    talk(client, "hi", "and?", system="be brief")
    assert capsys.readouterr().out == "Hello\nagain\n"
    assert client.calls[1].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "and?"},
    ]


def test_ctrl_c_stops_the_answer_and_not_the_program(talk, capsys):
    client = ScriptedClient(["par", KeyboardInterrupt()], ["ok"])
    talk(client, "long story", "/route", KeyboardInterrupt(), "next")
    assert client.calls[1].messages[1] == {"role": "assistant", "content": "par …"}
    shown = capsys.readouterr().err
    assert "huggingface: served after" in shown
    assert "(stopped; what was said is remembered)" in shown


def test_ctrl_c_before_the_first_word_forgets_the_question(talk):
    client = ScriptedClient(KeyboardInterrupt(), ["ok"])
    talk(client, "first", "second")
    assert client.calls[1].messages == [{"role": "user", "content": "second"}]


def test_an_error_is_shown_and_the_failed_turn_is_forgotten(talk, capsys):
    client = ScriptedClient(RateLimitError("slow down"), ["ok"])
    talk(client, "first", "second")
    assert "error: slow down" in capsys.readouterr().err
    assert client.calls[1].messages == [{"role": "user", "content": "second"}]


def test_slash_commands(talk, capsys):
    client = ScriptedClient(["a"], ["b"])
    talk(
        client,
        "/route",
        "x",
        "/route",
        "/reset",
        "/model other",
        "/route local",
        "y",
        "/help",
        "/no",
    )
    shown = capsys.readouterr().err
    assert "no answer yet" in shown
    assert "huggingface: served after 0.10 s" in shown
    assert "'/no' is not a command" in shown
    assert shown.count("/model NAME") == 2
    last = client.calls[1]
    assert (last.model, last.route, len(last.messages)) == ("other", "local", 1)


def test_the_route_is_said_unless_quiet(talk, capsys):
    talk(ScriptedClient(["a"]), "x", quiet=False)
    assert "served by huggingface (org/name)" in capsys.readouterr().err
    talk(ScriptedClient(["a"]), "x", quiet=True)
    assert "served by" not in capsys.readouterr().err


def test_an_error_and_its_fix_are_one_line(talk, capsys):
    error = RateLimitError("slow\n  down", retry_after=2.0)
    error.add_note("local: run: hybrid-infer pull chat/small")
    talk(ScriptedClient(error), "first")
    lines = capsys.readouterr().err.splitlines()
    assert "error: slow down · local: run: hybrid-infer pull chat/small · try again in 2 s" in lines


def test_the_local_copy_is_loaded_while_the_user_types_if_it_will_answer(talk, capsys):
    remote_first, local_first = ScriptedClient(), ScriptedClient()
    talk(remote_first)
    assert remote_first.warmed == []
    local_first.policy = "local-first"
    talk(local_first, "/model other", "/model small", "/route remote", "/route auto")
    assert sorted(local_first.warmed) == ["chat/other", "chat/small"]
    assert "loading small while you type" in capsys.readouterr().err
    routed = ScriptedClient()
    talk(routed, "/route local", "/model org/name")
    assert sorted(routed.warmed) == ["chat/small", "org/name"]


def test_a_wrong_name_is_refused_at_once_with_what_there_is(talk, capsys):
    client = ScriptedClient(["a"])
    talk(client, "/model smal", "/route nowhere", "/model mini", "x")
    shown = capsys.readouterr().err
    assert "error: no model 'smal'; there are: small, other, any Hub id as org/name" in shown
    assert "error: no route 'nowhere'; there are: auto, local, remote, huggingface" in shown
    assert "no model 'mini'" in shown
    assert (client.calls[0].model, client.calls[0].route) == ("small", None)


def test_model_alone_lists_them(talk, capsys):
    talk(ScriptedClient(), "/model")
    assert "other: org/other, local copy cold" in capsys.readouterr().err
