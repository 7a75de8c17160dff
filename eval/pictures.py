"""Plots of a report, drawn by matplotlib (imported when the first one is drawn) as SVG that stands in a page.

Every function takes a report as `eval.report.build_report` returns it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amplification.errors import InputError
from eval.results import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind readers and in grey: the filled, the hollow and the square marker differ in shape too.
AGENT, BEFORE, AMPLIFIED = "#1f66b0", "#6ea8dc", "#d2690e"
INK, MUTED, GRID, SHADE = "#24292f", "#6e7781", "#e4e7eb", "#eff5fb"
TARGET = 0.2  # the source would be happy with this overhead
SIZE = (2.5, 1.75)  # inches, of one small panel
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1}
ENDS = (0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of an axis of rates
SETTINGS = {
    "svg.hashsalt": "report",  # identifiers that do not change from one drawing to the next
    "font.size": 8.5,
    "text.parse_math": False,  # a task may be called "$x$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c4cad1",
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#c4cad1",
    "ytick.color": "#c4cad1",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Point:
    """One measurement: x is a generation (-1 for the base), y and its interval are shares."""

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """One line of a panel. `marker` and `line` are matplotlib's; a hollow marker is white inside."""

    label: str
    colour: str
    marker: str
    points: Sequence[Point]
    hollow: bool = False
    shift: float = 0.0  # beside each other, so that equal values do not hide one another
    line: str = "-"


def ladder_panels(report: Json) -> dict[str, dict[str, str]]:
    """{task: {level: SVG}}: accuracy by generation, A before PPO, A, and H^A, with the base and a chance line."""
    return {
        task: {level: _panel_svg(report, task, level, f"{task} level {level}") for level in _levels(report, task)}
        for task in report["levels"]
    }


def overhead_plot(report: Json) -> str:
    """F1 and F2 x F3, stacked, by generation and for the run; empty if the ledger wrote nothing."""
    rows = [(f"{g['n']}", g["overhead"]) for g in report["generations"]] + [("run", report["overhead"])]
    rows = [(label, row) for label, row in rows if row["total"] is not None]
    if not rows:
        return ""
    figure, axes = _figure((5.0, 2.6))
    places = range(len(rows))
    f1, f23 = [row["F1"] for _, row in rows], [row["F2"] * row["F3"] for _, row in rows]
    axes.bar(places, f1, width=0.55, color=AGENT, label="F1: reward learning and robustness")
    axes.bar(places, f23, width=0.55, bottom=f1, color=AMPLIFIED, label="F2 × F3: amplification")
    top = max([a + b for a, b in zip(f1, f23, strict=True)] + [TARGET])
    for place, a, b in zip(places, f1, f23, strict=True):
        axes.text(place, a + b + top * 0.02, _percent(a + b), ha="center", va="bottom", color=INK, bbox=LABEL)
    axes.axhline(TARGET, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="20%")
    axes.set_xticks(list(places), [label for label, _ in rows])
    axes.set_xlabel("generation")
    axes.set_ylim(0, top * 1.18)
    axes.yaxis.set_major_formatter(lambda value, _: _percent(value))
    figure.legend(loc="outside upper left", frameon=False, ncols=3, fontsize=8, handlelength=1.4, columnspacing=1.2)
    return _svg(figure, "overhead", "overhead by factor and generation")


def robustness_panels(report: Json) -> dict[str, str]:
    """{attack family: SVG}: rate of unacceptable answers by generation, before and after adversarial training."""
    measured = [(g["n"], g["robustness"]["families"]) for g in report["generations"]]
    families = sorted({family for _, row in measured for family in row})
    drawn = {}
    for family in families:
        series = [
            _rates(measured, family, "before", "before", BEFORE, hollow=True, shift=-0.1),
            _rates(measured, family, "after", "after", AGENT, hollow=False, shift=0.1),
        ]
        drawn[family] = series
    highest = max((p.interval[1] for group in drawn.values() for s in group for p in s.points if p.interval), default=0)
    top = next(end for end in ENDS if end >= highest)  # one scale for all families
    pictures = {}
    for number, (family, series) in enumerate(drawn.items()):
        figure, axes = _figure(SIZE)
        _draw(axes, series, _generations(report), top)
        pictures[family] = _svg(figure, f"family{number}", f"unacceptable answers to {family}")
    return pictures


def reward_model_plot(report: Json) -> str:
    """Accuracy of the reward model on held-out judgements by generation; empty if there is none."""
    points = [
        Point(g["n"], g["reward_model"]["heldout_accuracy"], _pair(g["reward_model"].get("interval")))
        for g in report["generations"]
        if g["reward_model"]["heldout_accuracy"] is not None
    ]
    if not points:
        return ""
    figure, axes = _figure((3.2, 1.8))
    _draw(axes, [Series("reward model", AGENT, "o", points)], _generations(report), 1.0)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    return _svg(figure, "reward", "accuracy of the reward model by generation")


def ladder_picture(report: Json, path: str | Path) -> None:
    """The whole ladder as one picture: a row a task, a column a level. Raises InputError unless .png or .svg."""
    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise InputError(target, f"cannot draw a '{target.suffix}' file", "give a name that ends in .png or .svg")
    import matplotlib
    from matplotlib.figure import Figure

    tasks = list(report["levels"])
    columns = max((len(_levels(report, task)) for task in tasks), default=1)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(2.1 * columns + 0.6, 1.6 * len(tasks) + 0.7), layout="constrained", facecolor="white")
        grid = figure.subplots(len(tasks), columns, squeeze=False, sharey=True)
        for row, task in enumerate(tasks):
            for column, axes in enumerate(grid[row]):
                levels = _levels(report, task)
                if column >= len(levels):
                    axes.set_axis_off()
                    continue
                _draw_cell(axes, report, task, levels[column])
                axes.set_title(f"{task}, level {levels[column]}", fontsize=8.5, color=INK, loc="left")
        handles: dict[str, Any] = {}
        for axes in grid.flat:
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else {"Software": None})


def _panel_svg(report: Json, task: str, level: str, label: str) -> str:
    figure, axes = _figure(SIZE)
    _draw_cell(axes, report, task, level)
    place = f"p{list(report['levels']).index(task)}x{level}"
    return _svg(figure, place, f"accuracy by generation: {label}")


def _draw_cell(axes: Axes, report: Json, task: str, level: str) -> None:
    """One panel of the ladder: the shaded generations were trained on this level."""
    base = report["base"].get(task, {}).get(level)
    at_base = [Point(-1, base["accuracy"], _pair(base["interval"]))] if base else []
    series = [
        Series("base", MUTED, "D", at_base),
        Series("Hᴬ", AMPLIFIED, "s", _measured(report, task, level, "amplified"), False, 0.18, ":"),
        Series("A before PPO", BEFORE, "o", _measured(report, task, level, "agent_before_ppo"), True, -0.18, "none"),
        Series("A", AGENT, "o", _measured(report, task, level, "agent")),
    ]
    ticks = ([-1] if report["base"] else []) + _generations(report)
    first = list(map(str, report["levels"][task])).index(level)
    if ticks and first <= ticks[-1]:
        axes.axvspan(first - 0.5, ticks[-1] + 0.5, color=SHADE, linewidth=0, zorder=0)
    _draw(axes, series, ticks, 1.0)
    chance = report["chance"].get(task, {}).get(level)
    if chance is not None:
        axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label="chance")


def _draw(axes: Axes, series: Sequence[Series], ticks: list[int], top: float) -> None:
    for one in series:
        if not one.points:
            continue
        xs, ys = [point.x + one.shift for point in one.points], [point.y for point in one.points]
        lows = [max(0.0, p.y - p.interval[0]) if p.interval else 0.0 for p in one.points]
        highs = [max(0.0, p.interval[1] - p.y) if p.interval else 0.0 for p in one.points]
        face = "white" if one.hollow else one.colour
        style = {"linewidth": 1.3, "markersize": 4.2, "elinewidth": 1, "markerfacecolor": face, "label": one.label}
        look = {"color": one.colour, "marker": one.marker, "linestyle": one.line, "clip_on": False}
        axes.errorbar(xs, ys, yerr=[lows, highs], **look, **style)
    axes.set_xticks(ticks, ["base" if tick < 0 else str(tick) for tick in ticks])
    axes.set_xlim((ticks[0] if ticks else 0) - 0.5, (ticks[-1] if ticks else 0) + 0.5)
    axes.set_ylim(-0.03 * top, 1.04 * top)
    axes.set_yticks([0, top / 2, top], ["0", _percent(top / 2), _percent(top)])


def _measured(report: Json, task: str, level: str, answerer: str) -> list[Point]:
    points = []
    for generation in report["generations"]:
        cell = generation["accuracy"].get(task, {}).get(level, {})
        if cell.get(answerer) is not None:
            points.append(Point(generation["n"], cell[answerer], _pair(cell["intervals"].get(answerer))))
    return points


def _rates(measured: list[Any], family: str, key: str, label: str, colour: str, hollow: bool, shift: float) -> Series:
    rows = [(n, row[family]) for n, row in measured if family in row and row[family][key] is not None]
    points = [Point(n, row[key], _pair(row["intervals"][key])) for n, row in rows]
    return Series(label, colour, "o", points, hollow, shift)


def _levels(report: Json, task: str) -> list[str]:
    """The task's levels that anything was measured at, in order."""
    tables = [report["base"], *(generation["accuracy"] for generation in report["generations"])]
    return [str(level) for level in report["levels"][task] if any(str(level) in t.get(task, {}) for t in tables)]


def _generations(report: Json) -> list[int]:
    return [generation["n"] for generation in report["generations"]]


def _pair(interval: Any) -> tuple[float, float] | None:
    return (interval[0], interval[1]) if interval else None


def _percent(value: float) -> str:
    return f"{round(100 * value, 1 if value < 0.1 else 0):g}%"


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        axes = figure.subplots()
    return figure, axes


def _svg(figure: Figure, prefix: str, label: str) -> str:
    """The figure as an <svg> element: text as text, identifiers unique to it, nothing that points elsewhere."""
    import matplotlib
    from markupsafe import escape

    buffer = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="@">', text, count=1)
    return text.replace('aria-label="@"', f'aria-label="{escape(label)}"', 1).strip()
