"""The report's schema, its pages and its files."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from amplification.errors import InputError
from eval.pages import html_page, markdown_page
from eval.report import build_report, ladder_picture, terminal_table, without_times, write_report

HOSTILE = '<script>alert("1")</script>|`*$\\frac$ \x1b[31m & <b>'


@pytest.fixture
def report(sample: SimpleNamespace) -> dict[str, Any]:
    return build_report(sample.run())


def test_schema_is_complete(report: dict[str, Any], sample: SimpleNamespace) -> None:
    assert (report["format"], report["run"], report["seconds"]) == (1, "sample", 431.0)
    assert {"config", "versions", "base", "generations", "overhead", "claims"} <= report.keys()
    assert {"F4", "total"} <= report["overhead"].keys()
    assert set(report["claims"]) == {"amplification_gains", "distillation_keeps", "monotonic", "benign_rate_grows"}
    assert all(isinstance(holds, bool) for holds in report["claims"].values())
    for generation in report["generations"]:
        assert {"n", "seconds", "accuracy", "calls", "overhead", "robustness", "reward_model"} <= generation.keys()
        assert set(generation["calls"]) == {"overseer", "agent", "memo_hits"}
        assert {"F1", "F2", "F3", "total"} <= generation["overhead"].keys()
        wanted = {"unacceptable_before", "unacceptable_after", "questions", "attacker_calls_to_failure"}
        assert wanted <= generation["robustness"].keys()
        assert "heldout_accuracy" in generation["reward_model"]
        for task in sample.tasks:
            for level in sample.levels:
                cell = generation["accuracy"][task][str(level)]
                assert {"agent", "agent_before_ppo", "amplified", "questions"} <= cell.keys()


def test_numbers_and_intervals_arrive(report: dict[str, Any]) -> None:
    cell = report["generations"][1]["accuracy"]["counting"]["4"]
    assert (cell["agent"], cell["amplified"], cell["questions"]) == (0.275, 0.97, 400)
    assert cell["intervals"]["amplified"][0] < 0.97 < cell["intervals"]["amplified"][1]
    assert report["generations"][0]["accuracy"]["counting"]["4"]["amplified"] is None
    assert report["base"]["counting"]["4"]["accuracy"] == 0.2
    robustness = report["generations"][0]["robustness"]
    assert robustness["questions"] == 3 * 125  # questions off the distribution are counted apart
    assert robustness["families"]["off_distribution"]["after"] == pytest.approx(3 / 125)


def test_files_round_trip_and_leave_nothing_else(sample: SimpleNamespace, tmp_path: Path) -> None:
    written = write_report(sample.run(), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8")) == written


def test_only_times_and_versions_differ_between_equal_runs(sample: SimpleNamespace) -> None:
    slow = sample.run([sample.generation(n, seconds=9.0 * n) for n in range(4)], seconds=1.5, versions={"torch": "x"})
    slow.generations[2].ppo["episodes_per_second"] = 1.0
    first, second = build_report(sample.run()), build_report(slow)
    assert first != second
    assert json.dumps(without_times(first)) == json.dumps(without_times(second))
    assert without_times(first)["config"]["limits"]["seconds"] == 600.0
    other = sample.run([sample.generation(n, adversary={"found": 40}) for n in range(4)])
    assert without_times(build_report(other)) != without_times(first)


def test_numbers_that_are_not_finite_become_null(sample: SimpleNamespace, tmp_path: Path) -> None:
    made = [sample.generation(0, ppo={"kl": float("nan"), "losses": [float("inf"), 0.5]})]
    written = write_report(sample.run(made), tmp_path)
    assert written["generations"][0]["ppo"] == {"kl": None, "losses": [None, 0.5]}


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_is_self_contained_and_has_its_plots(report: dict[str, Any], sample: SimpleNamespace) -> None:
    page = html_page(report)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page.replace("url(#", "")
    tags = Tags()
    tags.feed(page)
    names = [tag for tag, _ in tags.found]
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    assert all(not any(key in ("src", "href") for key in attributes) for _, attributes in tags.found)
    ladder, families = len(sample.tasks) * len(sample.levels), 4
    assert names.count("svg") == ladder + families + 2
    identifiers = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_adversaries_are_shown_by_source(report: dict[str, Any], sample: SimpleNamespace) -> None:
    assert report["generations"][2]["adversary"]["by_source"]["corpus"]["confirmed"] == 6
    lines = [line for line in markdown_page(report).splitlines() if "| corpus |" in line or "| mutation |" in line]
    assert lines[:2] == ["| 0 | corpus | 4,000 | 20 | 6 | – | 5 | 12 |", "| 0 | mutation | 90 | 45 | 0 | – | – | – |"]
    assert len(lines) == 8
    assert "<td>3</td><td>corpus</td><td>4,000</td>" in html_page(report)
    without = build_report(sample.run([sample.generation(n, adversary={}) for n in range(2)]))
    assert "calls to its first failure" not in markdown_page(without)
    assert "calls to its first failure" not in html_page(without)


def hostile_run(sample: SimpleNamespace) -> dict[str, Any]:
    """The sample with markup, mathematics and control characters wherever a name can stand."""
    made = [sample.generation(n) for n in range(2)]
    for generation in made:
        generation["ladder"] = {HOSTILE: generation["ladder"]["counting"]}
        generation["robustness"]["after"] = {HOSTILE: {"unacceptable": 1, "questions": 9}}
        generation["ppo"] = {HOSTILE: HOSTILE}
        generation["adversary"]["by_source"] = {HOSTILE: {}}
    changes = {"levels": {HOSTILE: [1, 2, 4, 8]}, "base": {}, "chance": {}, "config": {HOSTILE: HOSTILE}}
    return build_report(sample.run(made, name=HOSTILE, versions={HOSTILE: HOSTILE}, **changes))


def test_page_escapes_hostile_names(sample: SimpleNamespace) -> None:
    page = html_page(hostile_run(sample))
    tags = Tags()
    tags.feed(page)
    assert "script" not in [tag for tag, _ in tags.found]
    assert "b" not in [tag for tag, _ in tags.found]
    assert "&lt;script&gt;" in page


def test_markdown_tables_survive_hostile_names(sample: SimpleNamespace) -> None:
    page = markdown_page(hostile_run(sample))
    tables = page.split("## Configuration")[0]
    assert "<script>" not in tables
    rows = [line for line in tables.splitlines() if "alert" in line and line.startswith("|")]
    assert len(rows) == 4 + 2
    header = next(line for line in tables.splitlines() if line.startswith("| task"))
    assert all(line.replace("\\|", "").count("|") == header.count("|") for line in rows[:4])
    assert all(line.replace("\\|", "").count("|") == 9 for line in rows[4:])


def test_terminal_gets_no_control_characters_and_all_levels(sample: SimpleNamespace) -> None:
    from rich.console import Console

    for made in (build_report(sample.run()), hostile_run(sample)):
        console = Console(file=io.StringIO(), width=300, color_system=None)
        console.print(terminal_table(made))
        shown = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
        assert "\x1b" not in shown
        assert "H^A1" in shown
        assert "97.0" in shown
        assert "benign_rate_grows" in shown


def test_five_generations_keep_their_digits_in_a_terminal_of_80_columns(sample: SimpleNamespace) -> None:
    from rich.console import Console

    report = build_report(sample.run([sample.generation(n) for n in range(5)]))
    console = Console(file=io.StringIO(), width=80 - len("permutation") + len("counting"), color_system=None)
    console.print(terminal_table(report))
    shown = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    assert "H^A4" in shown
    assert shown.count("97.0") >= 5
    assert "…" not in shown


def test_a_run_without_generations_still_makes_pages(sample: SimpleNamespace) -> None:
    empty = build_report(sample.run([], base={}, chance={}, versions={}))
    assert empty["overhead"]["F4"] is None
    assert "not tested" in html_page(empty)
    assert "not tested" in markdown_page(empty)


def test_ladder_picture_is_drawn_whole_or_refused(report: dict[str, Any], tmp_path: Path) -> None:
    ladder_picture(report, tmp_path / "ladder.svg")
    ladder_picture(report, tmp_path / "ladder.png")
    assert ElementTree.parse(tmp_path / "ladder.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        ladder_picture(report, tmp_path / "ladder.gif")


def test_results_that_contradict_themselves_are_refused(sample: SimpleNamespace) -> None:
    with pytest.raises(ValidationError, match="in order"):
        sample.run([sample.generation(1), sample.generation(0)])
    with pytest.raises(ValidationError, match="unacceptable answers to 1 questions"):
        sample.run([sample.generation(0, robustness={"after": {"x": {"unacceptable": 2, "questions": 1}}})])
    with pytest.raises(ValidationError, match="expected 'questions' and accuracies"):
        sample.run([sample.generation(0, ladder={"counting": {"1": {"agent": 1.2, "questions": 4}}})])
