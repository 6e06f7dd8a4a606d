"""A conversation in the terminal: streaming answers, and a few slash commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli import chat, output
from hybrid_infer.errors import HybridInferError

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.datatypes.route import Route

HELP = """\
/model NAME    talk to another model from here on
/route         who served the last answer, attempt by attempt
/route TARGET  serve from 'local', 'remote' or a named remote; '/route auto' undoes it
/reset         forget the conversation
/help          this text
Ctrl-C stops an answer; Ctrl-D ends."""


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
        self.reset()

    def run(self) -> None:
        """Read, answer, repeat, until the end of input."""
        import contextlib

        with contextlib.suppress(ImportError):  # line editing; absent on some platforms
            import readline  # noqa: F401 - importing it gives input() its line editing

        self._say(f"{self._sampling['model']} · /help for commands · Ctrl-D ends")
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                print(file=sys.stderr)
                return
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)

    def reset(self) -> None:
        """Forget every turn; the system message stays."""
        self._messages = (
            [{"role": "system", "content": self._system}] if self._system is not None else []
        )

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim")

    def _ask(self, question: str) -> None:
        turn = {"role": "user", "content": question}
        try:
            answer, route = chat.stream_answer(
                self._client, [*self._messages, turn], self._sampling
            )
        except chat.Stopped as stop:
            answer, route = stop.text, stop.route
            self._say("(stopped)")
        except KeyboardInterrupt:  # before the first word
            self._say("(stopped)")
            return
        except HybridInferError as error:
            output.show_error(error, as_json=False)
            return
        if route is not None:
            self._last_route = route
            if not self._quiet:
                self._say(output.route_line(route))
        if answer:
            self._messages += [turn, {"role": "assistant", "content": answer}]

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/help":
            self._say(HELP)
        elif name == "/reset":
            self.reset()
            self._say("forgotten")
        elif name == "/model" and argument:
            self._sampling["model"] = argument
            self._say(f"now talking to {argument}")
        elif name == "/route" and argument:
            self._sampling["route"] = None if argument == "auto" else argument
            self._say(f"route: {argument}")
        elif name == "/route":
            self._show_route()
        else:
            self._say(f"{line!r} is not a command\n{HELP}")

    def _show_route(self) -> None:
        if self._last_route is None:
            self._say("no answer yet")
            return
        self._say(output.route_line(self._last_route))
        for attempt in self._last_route.attempts:
            outcome = f"{attempt.reason} ({attempt.error})" if attempt.error else "served"
            self._say(f"  {attempt.target}: {outcome} after {attempt.latency_seconds:.2f} s")
