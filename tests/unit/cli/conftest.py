import io
import sys
from types import SimpleNamespace

import pytest

from hybrid_infer.cli import main


class Keyboard(io.StringIO):
    """A stdin that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run_once(*words, stdin=None):
        piped = io.TextIOWrapper(io.BytesIO((stdin or "").encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", Keyboard() if stdin is None else piped)
        capsys.readouterr()
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return SimpleNamespace(code=code, out=shown.out, err=shown.err)

    return run_once


@pytest.fixture
def echo(fake_remote_factory):
    """A fake remote that answers at once and repeats the prompt."""
    return fake_remote_factory(answers="echo")


@pytest.fixture
def remotely(echo):
    """Options that send a call to the echoing remote and nowhere else."""
    return ("--policy", "remote-only", "--base-url", echo.url)
