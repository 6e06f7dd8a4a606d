"""Write docs/cli-options.md from the commands themselves. Run it after any change of an option."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, installed or not

PATH = ROOT / "docs" / "cli-options.md"
HEAD = """\
# Every option

What `--help` of each command says, by `scripts/make_cli_docs.py`. What the commands are for:
[command line](cli.md).
"""


def page() -> str:
    """The whole page."""
    from typer.main import get_group

    from hybrid_infer.cli import app

    return "\n".join([HEAD, *(section(name, it) for name, it in get_group(app).commands.items())])


def section(name: str, command: Any) -> str:
    """One command: what it does, its words and its options."""
    words = [word for word in command.params if not word.opts[0].startswith("-")]
    usage = " ".join([f"hybrid-infer {name}", *(usage_of(word) for word in words), "[OPTIONS]"])
    rows = "".join(row(parameter) for parameter in command.params)
    about = " ".join(command.help.split())
    return f"## {name}\n\n`{usage}`\n\n{about}\n\n| | default | |\n| --- | --- | --- |\n{rows}"


def usage_of(word: Any) -> str:
    """A word as a usage line has it."""
    shown = word.metavar or word.name.upper()
    return shown if word.required else f"[{shown}]"


def row(parameter: Any) -> str:
    """One line of a command's table."""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if not parameter.opts[0].startswith("-"):
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    elif parameter.metavar:
        names += f" {parameter.metavar}"
    default = parameter.default
    shown = "" if default in (None, False) else f"`{default}`"
    if default is True:
        shown = f"`{parameter.opts[0]}`"
    if parameter.envvar:
        shown = f"`${parameter.envvar}`"
    return f"| {names} | {shown} | {(parameter.help or '').replace('|', chr(92) + '|')} |\n"


def main() -> None:
    """Write the page."""
    PATH.write_text(page(), encoding="utf-8")
    print(PATH.relative_to(ROOT))


if __name__ == "__main__":
    main()
