"""``hybrid-infer demo``: the main job, on real embedding weights, in under a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid_infer.cli import options, output


def demo(
    output_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="PNG", help="Where the timeline picture goes.")
    ] = Path("demo-timeline.png"),
    as_json: options.JsonOption = False,
) -> None:
    """Watch calls survive a remote that is rate limited, goes away and comes back."""
    from hybrid_infer.cli.demo import picture, stage, tables
    from hybrid_infer.cli.demo.records import summarise

    stage.check_extra()
    picture.check_writable(output_file)
    played, chat = stage.perform(quiet=as_json)
    report = summarise(played.calls, played.phases, chat=chat)
    picture.draw(played.calls, played.phases, report, output_file)
    if as_json:
        output.print_json({"passed": report.passed, "report": report, "picture": output_file})
    else:
        tables.show(report)
        print(f"timeline: {output_file}")
        for error in report.errors:
            output.terminal().print(f"lost: {error}", style="red")
    if not report.passed:
        raise typer.Exit(output.EXIT_FAILED)
