"""An experiment's table and picture."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from eval.experiments import Outcome, draw, table

OUTCOME: Outcome = {
    "control": {
        1: {"figures": {"attacks": 0.5}, "curves": {"reward": [[0, 0.0], [1, 0.5], [2, 0.7]]}},
        2: {"figures": {"attacks": 0.7}, "curves": {"reward": [[0, 0.1], [1, 0.4]]}},
    },
    "remedy & more": {1: {"figures": {"attacks": 0.0, "calls": 9.0}, "curves": {}}},
}


def test_the_table_tells_mean_and_range() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(table(OUTCOME))
    assert "0.6 [0.5, 0.7]" in out.getvalue()
    row = [line for line in out.getvalue().splitlines() if "remedy & more" in line][1]  # of the second figure
    assert "9" in row


def test_the_picture_is_the_same_each_time_and_names_every_arm(tmp_path: Path) -> None:
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    for file in (first, second):
        draw(OUTCOME, ("attacks", "calls"), file)
    assert first.read_bytes() == second.read_bytes()
    ElementTree.fromstring(first.read_text(encoding="utf-8"))
    text = first.read_text(encoding="utf-8").replace("&amp;", "&")
    for words in ("control", "remedy & more", "reward", "attacks", "calls"):
        assert words in text


def test_a_result_without_curves_or_bars_is_still_drawn(tmp_path: Path) -> None:
    draw({"only": {1: {"figures": {}, "curves": {}}}}, (), tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").stat().st_size > 0
