"""Results of an experiment: a table for the terminal, and a picture with a panel for each curve and each bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from eval.pictures import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

# {arm: {seed: {"figures": {name: value}, "curves": {name: [[x, y], ...]}}}}
Outcome = Mapping[str, Mapping[int, Mapping[str, Any]]]

# Told apart by colour-blind readers (Okabe and Ito, "Color Universal Design", 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
PANEL = (3.3, 2.3)  # inches
ACROSS = 3


def table(outcome: Outcome) -> Table:
    """A row for each figure of each arm: its mean over the seeds and, with several, the lowest and the highest."""
    from rich.table import Table

    drawn = Table("figure", "arm", f"mean of {len(next(iter(outcome.values())))} seed(s)")
    for name in figures(outcome):
        for place, (arm, seeds) in enumerate(outcome.items()):
            values = [measured["figures"].get(name) for measured in seeds.values()]
            drawn.add_row(name if place == 0 else "", arm, _cell(values), end_section=place + 1 == len(outcome))
    return drawn


def figures(outcome: Outcome) -> list[str]:
    """Names of all figures in the order in which they were given."""
    return list(dict.fromkeys(name for seeds in outcome.values() for s in seeds.values() for name in s["figures"]))


def draw(outcome: Outcome, shown: Sequence[str], file: Path) -> None:
    """Write an SVG: the curves, thin for a seed and bold for their mean; the figures `shown` as bars, a dot a seed."""
    import matplotlib
    from matplotlib.figure import Figure

    curves = list(dict.fromkeys(name for seeds in outcome.values() for s in seeds.values() for name in s["curves"]))
    panels = max(1, len(curves) + len(shown))
    across = min(ACROSS, panels)
    down = -(-panels // across)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down + 0.4), layout="constrained", facecolor="white")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for ax, name in zip(axes, curves, strict=False):
            _draw_curves(ax, outcome, name)
        for ax, name in zip(axes[len(curves) :], shown, strict=False):
            _draw_bars(ax, outcome, name)
        for ax in axes[panels:]:
            ax.set_visible(False)
        lines = [_key(axes[0], colour, arm) for arm, colour in zip(outcome, _colours(outcome), strict=True)]
        figure.legend(handles=lines, loc="outside upper left", frameon=False, ncols=min(4, len(lines)))
        # Nothing in the file but what was measured: drawing the same results again changes no byte.
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_curves(ax: Axes, outcome: Outcome, name: str) -> None:
    for seeds, colour in zip(outcome.values(), _colours(outcome), strict=True):
        lines = [[(x, y) for x, y in s["curves"][name]] for s in seeds.values() if name in s["curves"]]
        for line in lines:
            ax.plot(*zip(*line, strict=True), color=colour, linewidth=0.7, alpha=0.45)
        means = _mean_line(lines)
        if means:
            ax.plot(*zip(*means, strict=True), color=colour, linewidth=1.8)
    ax.set_title(name, loc="left", fontsize=8.5)


def _mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Means where every seed has a point: a line that ended early must not pull the others."""
    tables = [dict(line) for line in lines]
    common = [x for x in tables[0] if all(x in other for other in tables)] if tables else []
    return [(x, mean(other[x] for other in tables)) for x in sorted(common)]


def _draw_bars(ax: Axes, outcome: Outcome, name: str) -> None:
    for place, (seeds, colour) in enumerate(zip(outcome.values(), _colours(outcome), strict=True)):
        values = [s["figures"][name] for s in seeds.values() if s["figures"].get(name) is not None]
        if values:
            ax.bar(place, mean(values), width=0.6, color=colour, alpha=0.55)
            ax.plot([place] * len(values), values, "o", color=colour, markersize=3.5)
    ax.set_xticks([])
    ax.set_title(name, loc="left", fontsize=8.5)


def _key(ax: Axes, colour: str, label: str) -> Any:
    return ax.plot([], [], color=colour, linewidth=3, label=label)[0]


def _colours(outcome: Outcome) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(outcome))]


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    shown = f"{mean(known):.3g}"
    return shown if len(known) == 1 else f"{shown} [{min(known):.3g}, {max(known):.3g}]"
