"""The demo's timeline as a picture: who served each call, and how fast, while the remote failed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_infer.cli import output
from hybrid_infer.cli.demo.records import Call, Phase, Report
from hybrid_infer.cli.demo.tables import floored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart with any colour vision, and in grey by shape and lightness.
REMOTE, LOCAL, LOST = "#0072B2", "#D55E00", "#000000"
INK, MUTED = "#222222", "#666666"
BANDS = ("#FFFFFF", "#F1F1F1", "#E4E4E4", "#FFFFFF")  # darker: worse


def check_writable(path: Path) -> None:
    """See that the picture can be written, before there is one; what is there stays as it is.

    Args:
        path: the file.

    Raises:
        UsageFault: it cannot be written.
    """
    was_there = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise output.UsageFault(f"cannot write {path}: {error.strerror}") from error
    if not was_there:
        path.unlink()


def draw(calls: list[Call], phases: list[Phase], report: Report, path: Path) -> None:
    """Write the timeline as a PNG.

    Args:
        calls: every call, at its start on x and its latency on y.
        phases: shaded and labelled from left to right.
        report: the headline's numbers.
        path: the file.

    Raises:
        UsageFault: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), dpi=130, facecolor="white")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.075, right=0.975, top=0.74, bottom=0.165)
    _shade(axes, phases, report)
    _plot(axes, calls)
    _headline(figure, report)
    _dress(axes, phases)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise output.UsageFault(f"cannot write {path}: {error.strerror}") from error


def _shade(axes: Axes, phases: list[Phase], report: Report) -> None:
    top = axes.get_xaxis_transform()
    for phase, row, colour in zip(phases, report.rows, BANDS, strict=True):
        axes.axvspan(phase.started, phase.ended, color=colour, lw=0, zorder=0)
        middle = (phase.started + phase.ended) / 2
        text: dict[str, Any] = {"transform": top, "ha": "center", "va": "bottom", "clip_on": False}
        axes.text(middle, 1.075, phase.name, fontsize=12, weight="bold", color=INK, **text)
        served = [
            f"{count} {name}"
            for count, name in ((row.served_remote, "remote"), (row.served_local, "local"))
            if count
        ]
        lost = f", {row.lost} LOST" if row.lost else ""
        note = f"{row.calls} calls: {' + '.join(served)}{lost}"
        axes.text(middle, 1.02, note, fontsize=10, color=MUTED, **text)
    for phase in phases[1:]:
        axes.axvline(phase.started, color="#999999", lw=0.8, ls=(0, (4, 3)), zorder=1)


def _plot(axes: Axes, calls: list[Call]) -> None:
    for server, colour, marker, label in (
        ("remote", REMOTE, "o", "served by the remote"),
        ("local", LOCAL, "^", "served by the local copy of the same model"),
        (None, LOST, "X", "lost"),
    ):
        mine = [call for call in calls if call.server == server]
        if not mine:
            continue
        hollow = ["white" if call.task == "chat" and server else colour for call in mine]
        axes.scatter(
            [call.started for call in mine],
            [1000 * call.latency_seconds for call in mine],
            s=62 if marker == "^" else 48,
            c=hollow,
            marker=marker,
            edgecolors=colour,
            linewidths=1.2,
            zorder=3,
            clip_on=False,
        )
        # The legend's own mark is always a filled one.
        axes.scatter([], [], s=62, c=colour, marker=marker, label=f"{label} ({len(mine)})")


def _headline(figure: Any, report: Report) -> None:
    verdict = "no call was lost" if report.lost == 0 else f"{report.lost} calls were LOST"
    figure.text(
        0.075,
        0.945,
        f"The remote failed twice; {verdict}",
        fontsize=17,
        weight="bold",
        color=INK,
        va="center",
    )
    figure.text(0.075, 0.893, _subtitle(report), fontsize=10, color=MUTED, va="center")


def _subtitle(report: Report) -> str:
    parts = [
        f"{report.calls} calls: embeddings on the real all-MiniLM-L6-v2; hollow: chat, {report.chat}"
    ]
    if report.cosine_min is not None:
        dtype = next(row.dtype for row in report.rows if row.dtype)
        parts.append(
            f"local vectors against the remote's: cosine ≥ {floored(report.cosine_min)} ({dtype})"
        )
    return "  ·  ".join(parts)


def _dress(axes: Axes, phases: list[Phase]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.set_xlim(0.0, phases[-1].ended)
    low, high = axes.get_ylim()
    axes.set_ylim(low * 0.85, high * 1.15)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds", color=MUTED, loc="left")
    axes.set_ylabel("latency of a call, ms", color=MUTED)
    axes.tick_params(colors=MUTED, which="both", length=3)
    axes.grid(axis="y", color="#E5E5E5", lw=0.7, zorder=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")
    axes.legend(
        loc="upper right",
        bbox_to_anchor=(1.0, -0.085),
        ncols=3,
        frameon=False,
        fontsize=11,
        handletextpad=0.3,
        borderaxespad=0.0,
    )
