"""PPO's agent is kept or dropped by H^A's held-out labels alone."""

from collections.abc import Sequence
from pathlib import Path

from amplification.question import Answer
from distill.keep import agreements, better, go_back

LABELS = [
    {"question": "a", "answer": "1", "part": "heldout"},
    {"question": "b", "answer": "2", "part": "heldout"},
    {"question": "c", "answer": "3", "part": "train"},
]


def test_agreement_is_on_held_out_labels_and_failures_do_not_agree() -> None:
    asked: list[str] = []

    def ask(texts: Sequence[str]) -> list[Answer]:
        asked.extend(texts)
        return [Answer("1"), Answer.failed("2")]

    assert agreements(ask, LABELS) == [True, False]
    assert asked == ["a", "b"]


def test_a_gain_counts_only_beyond_chance() -> None:
    def changed(gained: int, lost: int) -> tuple[list[bool], list[bool]]:
        return [True] * 5 + [False] * gained + [True] * lost, [True] * 5 + [True] * gained + [False] * lost

    assert better(*changed(2, 0))
    assert better(*changed(9, 4))
    assert not better(*changed(0, 0))
    assert not better(*changed(1, 0))
    assert not better(*changed(8, 6))
    assert not better(*changed(0, 3))
    assert not better([], [])


def test_going_back_leaves_the_starting_agents_files_alone(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    for folder, text in ((start, "old"), (out, "new")):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(text)
    (start / "done.json").write_text("{}")
    (out / "extra.txt").write_text("x")
    go_back(out, start)
    assert {file.name: file.read_text() for file in out.iterdir()} == {"adapter_model.safetensors": "old"}
