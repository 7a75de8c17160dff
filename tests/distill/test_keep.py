"""PPO's agent is kept or dropped by H^A's held-out labels alone."""

from collections.abc import Sequence
from pathlib import Path

from amplification.question import Answer
from distill.keep import agreement, go_back

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

    assert agreement(ask, LABELS) == 0.5
    assert asked == ["a", "b"]


def test_going_back_leaves_the_starting_agents_files_alone(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    for folder, text in ((start, "old"), (out, "new")):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(text)
    (start / "done.json").write_text("{}")
    (out / "extra.txt").write_text("x")
    go_back(out, start)
    assert {file.name: file.read_text() for file in out.iterdir()} == {"adapter_model.safetensors": "old"}
