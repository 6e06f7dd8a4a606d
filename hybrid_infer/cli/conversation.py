"""A conversation in the terminal: streaming answers, and a few slash commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli import chat, output
from hybrid_infer.cli.warming import Warming
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybrid_infer import HybridClient
    from hybrid_infer.datatypes.route import Route

HELP = """\
/model         which models there are
/model NAME    talk to another model from here on
/route         who served the last answer, attempt by attempt
/route TARGET  serve from 'local', 'remote' or a named remote; '/route auto' undoes it
/reset         forget the conversation
/help          this text
Ctrl-C stops an answer; Ctrl-D ends."""
CUT_MARK = " …"  # behind an answer that was stopped, so that the model too knows that it was


class Conversation:
    """One interactive session.

    Args:
        client: who answers.
        sampling: keyword arguments of every ``chat_completion`` call; `/model` and `/route`
            change two of them.
        system: the system message, or None.
        quiet: leaves out the line that says who served.
    """

    def __init__(
        self, client: HybridClient, sampling: dict[str, Any], *, system: str | None, quiet: bool
    ) -> None:
        self._client = client
        self._sampling = dict(sampling)
        self._system = system
        self._quiet = quiet
        self._messages: list[dict[str, str]] = []
        self._last_route: Route | None = None
        self._console = output.terminal()
        self._warming = Warming(client)
        self.reset()

    def run(self) -> None:
        """Read, answer, repeat, until the end of input."""
        import contextlib

        with contextlib.suppress(ImportError):  # line editing; absent on some platforms
            import readline  # noqa: F401 - importing it gives input() its line editing

        self._say(f"{self._sampling['model']} · /help for commands · Ctrl-D ends")
        self._warm()
        while True:
            try:
                line = input("> ").strip()
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._ask(line)
            except EOFError:
                print(file=sys.stderr)
                return
            except KeyboardInterrupt:  # at the prompt, or a second one while an answer is stopped
                print(file=sys.stderr)
            except HybridInferError as error:
                self._show(error)

    def reset(self) -> None:
        """Forget every turn; the system message stays."""
        self._messages = (
            [{"role": "system", "content": self._system}] if self._system is not None else []
        )

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim")

    def _show(self, error: HybridInferError) -> None:
        self._console.print(output.error_line(error), style="bold red")

    def _warm(self) -> None:
        """Load the local copy now, if it is the one that will answer."""
        model, status = self._sampling["model"], self._client.status()
        is_first = status["policy"].startswith("local") or not status["remotes"]
        if self._sampling["route"] == "local" or (self._sampling["route"] is None and is_first):
            self._say(f"loading {model} while you type …")
            self._warming.begin(model)

    def _ask(self, question: str) -> None:
        turn = {"role": "user", "content": question}
        if self._warming.is_loading(self._sampling["model"]):
            self._say("(still loading …)")
        is_cut = False
        try:
            answer, route = chat.stream_answer(
                self._client, [*self._messages, turn], self._sampling
            )
        except chat.Stopped as stop:
            answer, route, is_cut = stop.text, stop.route, True
        except KeyboardInterrupt:  # before the first word
            self._say("(stopped; the question is forgotten)")
            return
        if is_cut:
            self._say("(stopped; what was said is remembered)")
        if route is not None:
            self._last_route = route
            if not self._quiet:
                self._say(output.route_line(route))
        if answer:
            said = answer + CUT_MARK if is_cut else answer
            self._messages += [turn, {"role": "assistant", "content": said}]

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/help":
            self._say(HELP)
        elif name == "/reset":
            self.reset()
            self._say("forgotten")
        elif name == "/model":
            self._choose_model(argument)
        elif name == "/route" and argument:
            self._choose_route(argument)
        elif name == "/route":
            self._show_route()
        else:
            self._say(f"{line!r} is not a command\n{HELP}")

    def _choose_model(self, name: str) -> None:
        rows = {row["alias"]: row for row in self._client.list_models() if row["task"] == "chat"}
        bare = name.removeprefix("chat/")
        if not name:
            for alias, row in rows.items():
                self._say(f"  {alias}: {row['repo']}, local copy {row['local']}")
        elif bare in rows or "/" in bare:
            self._sampling["model"] = bare
            self._say(f"now talking to {bare}")
            self._warm()
        else:
            self._refuse("model", name, [*rows, "any Hub id as org/name"])

    def _choose_route(self, target: str) -> None:
        known = ["auto", "local", "remote", *self._client.status()["remotes"]]
        if target not in known:
            self._refuse("route", target, known)
            return
        self._sampling["route"] = None if target == "auto" else target
        self._say(f"route: {target}")
        self._warm()

    def _refuse(self, kind: str, given: str, known: Sequence[str]) -> None:
        self._console.print(
            f"error: no {kind} {given!r}; there are: {', '.join(known)}", style="bold red"
        )

    def _show_route(self) -> None:
        if self._last_route is None:
            self._say("no answer yet")
            return
        self._say(output.route_line(self._last_route))
        for attempt in self._last_route.attempts:
            outcome = f"{attempt.reason} ({attempt.error})" if attempt.error else "served"
            self._say(f"  {attempt.target}: {outcome} after {attempt.latency_seconds:.2f} s")
