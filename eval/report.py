"""A run's report: report.json for programs, report.html and report.md for people, a table for the terminal."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amplification.tasks.attacks import OFF_DISTRIBUTION
from eval.claims import claims
from eval.overhead import Factors, overhead
from eval.pages import html_page, markdown_page
from eval.pictures import ladder_picture
from eval.projection import projection
from eval.results import GenerationResults, Json, RobustnessResults, RunResults, Shares, shares_of
from eval.statistics import wilson

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FORMAT", "build_report", "ladder_picture", "terminal_table", "without_times", "write_report"]

FORMAT = 1


def build_report(results: RunResults) -> Json:
    """The report as JSON-ready data. Numbers that are not finite become null; nothing but times and versions varies
    between two runs of one configuration.
    """
    decided = claims(results)
    costs = {generation.n: generation.costs for generation in results.generations if generation.costs is not None}
    spent = overhead(list(costs.values()))
    factors = dict(zip(costs, spent.generations, strict=True))
    projected = projection(list(costs.values()), spent.generations, spent.run)
    report = {
        "format": FORMAT,
        "run": results.name,
        "config": results.config,
        "versions": results.versions,
        "seconds": results.seconds,
        "levels": {task: list(levels) for task, levels in results.levels.items()},
        "base": _base(shares_of(results.base, "base")),
        "chance": {
            task: {level: cell["chance"] for level, cell in levels.items()} for task, levels in results.chance.items()
        },
        "generations": [_generation(generation, factors.get(generation.n)) for generation in results.generations],
        "overhead": {
            **_factors(spent.run if costs else None),
            "F4": spent.f4,
            "unpriced_overseer_tokens": sum(cost.unpriced_overseer_tokens for cost in costs.values()),
            "projection": projected.as_json() if projected else None,
        },
        "claims": {name: claim.holds for name, claim in decided.all().items()},
        "claims_details": {
            name: {"tested": claim.tested, "comparisons": claim.details} for name, claim in decided.all().items()
        },
        "lattice": asdict(decided.lattice),
    }
    finite: Json = _finite(report)
    return finite


def write_report(results: RunResults, folder: str | Path) -> Json:
    """Writes report.html, report.md and, last, report.json into `folder`; each appears whole or not at all."""
    report, target = build_report(results), Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _write(target / "report.html", html_page(report))
    _write(target / "report.md", markdown_page(report))
    _write(target / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return report


def without_times(report: Json) -> Json:
    """The report without what may differ between two runs that did the same: times, speeds and versions.

    The configuration is kept whole.
    """
    kept: Json = {key: _untimed(value) for key, value in report.items() if key != "config" and not _is_time(key)}
    return kept | {"config": report["config"]}


def terminal_table(report: Json) -> Table:
    """Accuracy by task and level for the base and, generation by generation, for A and H^A; claims in the caption."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    numbers = [generation["n"] for generation in report["generations"]]
    caption = "\n".join(f"{name}: {'yes' if holds else 'no'}" for name, holds in report["claims"].items())
    total = report["overhead"]["total"]
    if total is not None:
        caption += f"\noverhead F1 + F2 x F3: {100 * total:.1f}%"
    if unpriced := report["overhead"].get("unpriced_overseer_tokens"):
        caption += f"\noverhead: unknown, as {unpriced} tokens are of an overseer without 'serving.http.parameters'"
    title = Text(f"{printable(report['run'])}: accuracy in % on held-out questions")
    # Narrow, as Rich cuts digits off where a terminal of 80 columns has no room.
    table = Table(title=title, header_style="bold", box=SIMPLE, padding=0)
    table.caption, table.caption_justify = Text(caption), "left"
    for name in ("task", "level", "base"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for n in numbers:
        table.add_column(f"A{n}", justify="right", style="blue")
        table.add_column(f"H^A{n}", justify="right", style="yellow")
    for task, levels in report["levels"].items():
        for place, level in enumerate(map(str, levels)):
            base = report["base"].get(task, {}).get(level, {})
            row = [printable(task) if place == 0 else "", level, _hundred(base.get("accuracy"))]
            for generation in report["generations"]:
                cell = generation["accuracy"].get(task, {}).get(level, {})
                row += [_hundred(cell.get("agent")), _hundred(cell.get("amplified"))]
            table.add_row(*map(Text, row), end_section=place == len(levels) - 1)
    return table


def printable(text: str) -> str:
    """`text` without control characters, which a terminal could take for commands."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _base(shares: Shares) -> Json:
    table: Json = {}
    for (task, level), (k, n) in shares.items():
        table.setdefault(task, {})[level] = {"accuracy": k / n, "interval": list(wilson(k, n)), "questions": n}
    return table


def _generation(generation: GenerationResults, factors: Factors | None) -> Json:
    return {
        "n": generation.n,
        "seconds": generation.seconds,
        "accuracy": _accuracy(generation),
        "calls": generation.calls.model_dump(),
        "overhead": _factors(factors),
        "costs": generation.costs.model_dump() if generation.costs else None,
        "robustness": _robustness(generation.robustness),
        "reward_model": _reward_model(generation.reward_model),
        "labels": generation.labels,
        "warm_start": generation.warm_start,
        "adversary": generation.adversary,
        "ppo": generation.ppo,
    }


def _accuracy(generation: GenerationResults) -> Json:
    """{task: {level: cell}}; an answerer that was not measured in a cell is null there."""
    measured = {name: generation.shares(name) for name in ("agent", "agent_before_ppo", "amplified")}
    table: Json = {}
    for task, level in generation.shares("agent"):
        row: Json = {}
        intervals: Json = {}
        for name, shares in measured.items():
            share = shares.get((task, level))
            row[name] = share[0] / share[1] if share else None
            intervals[name] = list(wilson(*share)) if share else None
        row["questions"] = measured["agent"][task, level][1]
        table.setdefault(task, {})[level] = {**row, "intervals": intervals}
    return table


def _factors(factors: Factors | None) -> Json:
    empty = factors or Factors(None, None, None, None, None, None)
    return {
        "F1": empty.f1,
        "F2": empty.f2,
        "F3": empty.f3,
        "F3_without_memo": empty.f3_without_memo,
        "total": empty.total,
        "total_without_memo": empty.total_without_memo,
    }


def _robustness(measured: RobustnessResults) -> Json:
    """The totals are over attack families; questions off the distribution stand beside them, as a family."""
    families = {
        family: _before_and_after(measured, [family])
        for family in sorted(measured.before.keys() | measured.after.keys())
    }
    total = _before_and_after(measured, [family for family in families if family != OFF_DISTRIBUTION])
    return {
        "unacceptable_before": total["before"],
        "unacceptable_after": total["after"],
        "questions": total["questions"],
        "intervals": total["intervals"],
        "attacker_calls_to_failure": measured.attacker_calls_to_failure,
        "attacker_call_cap": measured.attacker_call_cap,
        "kinds": measured.kinds,
        "undecided": measured.undecided,
        "families": families,
    }


def _before_and_after(measured: RobustnessResults, families: list[str]) -> Json:
    counts = {
        name: (sum(one.unacceptable for one in ones), sum(one.questions for one in ones))
        for name, rates in (("before", measured.before), ("after", measured.after))
        for ones in [[rates[family] for family in families if family in rates]]
    }
    row: Json = {name: k / n if n else None for name, (k, n) in counts.items()}
    row["questions"] = counts["after"][1] or counts["before"][1]
    row["intervals"] = {name: list(wilson(k, n)) if n else None for name, (k, n) in counts.items()}
    return row


def _reward_model(metrics: Json) -> Json:
    """The stage's metrics, with an interval where it says on how many held-out pairs it was measured."""
    row = {"heldout_accuracy": None, **metrics}
    pairs, share = metrics.get("heldout_pairs"), metrics.get("heldout_accuracy")
    if pairs and share is not None:
        row["interval"] = list(wilson(round(share * pairs), pairs))
    return row


def _is_time(key: str) -> bool:
    return key in ("seconds", "versions") or key.endswith(("_seconds", "per_second"))


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(inner) for key, inner in value.items() if not _is_time(key)}
    return [_untimed(inner) for inner in value] if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hundred(share: float | None) -> str:
    return "" if share is None else "100" if share == 1 else f"{100 * share:.1f}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
