"""A conversation as a user has it: keys into a pseudo-terminal, and what the screen shows."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from hybrid_infer.testing import Reply

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")

PATIENCE_SECONDS = 90.0
CTRL_D = "\x04"


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, *words):
        import pty

        self._keys, line = pty.openpty()
        self._program = subprocess.Popen(
            [sys.executable, "-m", "hybrid_infer", "chat", *words],
            stdin=line,
            stdout=line,
            stderr=line,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        )
        os.close(line)
        self.screen = ""
        self._read = 0

    def press(self, keys):
        os.write(self._keys, keys.encode())

    def interrupt(self):
        """What a terminal does on Ctrl-C; this one controls no session."""
        self._program.send_signal(signal.SIGINT)

    def see(self, text):
        """Read until `text` shows behind what was seen before; what came until then."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (at := self.screen.find(text, self._read)) < 0:
            ready, _, _ = select.select([self._keys], [], [], end - time.monotonic())
            assert ready, f"{text!r} did not come; the screen shows {self.screen[self._read :]!r}"
            try:
                piece = os.read(self._keys, 4096)
            except OSError:  # how Linux says that the other side is closed
                piece = b""
            assert piece, f"the program ended before {text!r}: {self.screen[self._read :]!r}"
            self.screen += piece.decode(errors="replace")
        before, self._read = self.screen[self._read : at], at + len(text)
        return before

    def ends(self):
        """Its exit code; whatever it still says is read."""
        while True:
            if not select.select([self._keys], [], [], 1.0)[0]:
                self.press(CTRL_D)  # between two prompts it was a character like any other
                continue
            try:
                if not os.read(self._keys, 4096):
                    break
            except OSError:
                break
        return self._program.wait(PATIENCE_SECONDS)

    def close(self):
        self._program.kill()
        self._program.wait()
        os.close(self._keys)


@pytest.fixture
def open_terminal():
    opened = []

    def start(*words):
        opened.append(Terminal(*words))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_a_conversation_with_the_local_copy(open_terminal):
    terminal = open_terminal("--profile", "tiny", "-m", "small", "--max-tokens", "8")
    terminal.see("small · /help for commands")
    terminal.see("loading small while you type")
    terminal.see("> ")
    terminal.press("hello there\n")
    terminal.see("served by the local copy (tiny/Phi-3-mini-4k-instruct")
    terminal.see("> ")
    terminal.press("/route\n")
    terminal.see("local: served after")
    terminal.press("/model large\n")
    terminal.see("now talking to large")
    terminal.press("again\n")
    terminal.see("served by the local copy (tiny/Meta-Llama-3-8B-Instruct")
    terminal.press("/reset\n")
    terminal.see("forgotten")
    terminal.press("/help\n")
    terminal.see("Ctrl-C stops an answer")
    terminal.press("/modle\n")
    terminal.see("is not a command")
    terminal.see("> ")  # between two prompts the key would be a character like any other
    terminal.press(CTRL_D)
    assert terminal.ends() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(open_terminal, echo):
    echo.enqueue(Reply(stall_after_events=2))
    terminal = open_terminal(
        *("--profile", "tiny", "-m", "small", "--policy", "remote-only", "--base-url", echo.url)
    )
    terminal.see("> ")
    terminal.press("one two three four\n")
    terminal.see("one two")
    terminal.see("one two")  # the first was the terminal's own echo
    terminal.interrupt()
    terminal.see("(stopped; what was said is remembered)")
    terminal.see("> ")
    terminal.press("five\n")
    terminal.see("served by huggingface")
    turns = [message["content"] for message in echo.ledger[-1].body_json["messages"]]
    assert turns == ["one two three four", "one two …", "five"]
    terminal.see("> ")
    terminal.interrupt()
    terminal.press("\n")  # Python misses a signal just before it waits for a key, until one comes
    terminal.see("> ")
    terminal.press(CTRL_D)
    assert terminal.ends() == 0


def test_an_error_is_one_line_and_the_conversation_goes_on(open_terminal, echo):
    echo.enqueue(Reply(status=402, json={"error": "You have exceeded your credits"}))
    terminal = open_terminal("-m", "small", "--policy", "remote-only", "--base-url", echo.url)
    terminal.see("> ")
    terminal.press("hello\n")
    terminal.see("error: ")
    assert "credits" in terminal.see("\r\n")
    terminal.see("> ")
    terminal.press(CTRL_D)
    assert terminal.ends() == 0
