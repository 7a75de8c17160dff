"""Labels in rounds: as many as were to be asked, a fair sample held out, nothing asked twice after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from amplification.episode import Cost
from distill.config import DistillConfig, LabelsConfig, RewardConfig, SelectionConfig, WarmStartConfig
from distill.configure import load_config
from distill.curriculum import Chosen, choose
from distill.iterate import run
from distill.judgement import Answers
from distill.labels import read_labels
from distill.learners import Learners
from distill.selected_labels import select_labels
from distill.stage import read_done
from eval.evaluator import Evaluator
from tests.distill.test_stage import Silent
from tests.distill.training import LINEAR, TASKS, silent

CONFIGS = Path(__file__).parents[2] / "configs"

SETTINGS = LabelsConfig(
    questions=30, replay=10, heldout=0.2, selection=SelectionConfig(by="disagreement", rounds=3, pool=3)
)
POOL = choose(TASKS, 1, SETTINGS.candidates(), 0.2, [], seed=1)
COUNT = 80


class Killed(Exception):
    pass


class Recorder:
    """A judge that knows the truth, keeps what it is asked, and is killed after so many questions."""

    def __init__(self, patience: int = 10_000) -> None:
        self.asked: list[str] = []
        self.patience = patience

    def answer(self, texts: Sequence[str], progress: Any = None) -> Answers:
        if len(self.asked) + len(texts) > self.patience:
            raise Killed
        self.asked += texts
        progress(len(texts), len(texts))
        return Answers(tuple(map(self._truth, texts)), Cost(calls=len(texts), tokens=10 * len(texts)))

    def _truth(self, text: str) -> str | None:
        for task in TASKS.values():
            if task.level_of(text) is not None:
                return task.truth(text)
        return "nonsense"


class Liking:
    """A valuer that likes one task's questions alone, and keeps what it was shown."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.rounds: dict[int, list[str]] = {}

    def values(
        self, number: int, rows: Sequence[Mapping[str, Any]], questions: Sequence[str]
    ) -> tuple[list[float], list[dict[str, Any]]]:
        self.rounds[number] = [str(row["question"]) for row in rows]
        liked = [float(TASKS[self.task].level_of(question) is not None) for question in questions]
        return liked, [{"parameters": 10, "forward_tokens": 5, "train_tokens": number}]


def select(judge: Any, valuer: Any, folder: Path) -> dict[str, Any]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return select_labels(judge, TASKS, POOL, COUNT, valuer, SETTINGS, out, folder / "state", 1, silent)


def places_of(rows: Sequence[Mapping[str, Any]]) -> list[Chosen]:
    return [Chosen(row["question"], row["task"], row["level"], row["source"]) for row in rows]


def test_as_many_are_asked_as_without_a_choice_and_each_round_knows_the_ones_before(tmp_path: Path) -> None:
    judge, valuer = Recorder(), Liking("boolean")
    metrics = select(judge, valuer, tmp_path)
    rows = read_labels(tmp_path / "out")
    assert metrics["labels"] == len(rows) == len(set(judge.asked)) == COUNT
    assert set(places_of(rows)) <= set(POOL)
    assert sorted(valuer.rounds) == [1, 2]
    for known in valuer.rounds.values():
        assert known == judge.asked[: len(known)]
    assert metrics["cost"]["tokens"] == 10 * COUNT
    assert [each["train_tokens"] for each in metrics["selection"]["learning"]] == [1, 2]


def test_what_is_worth_more_is_asked_more_and_not_it_alone(tmp_path: Path) -> None:
    def shares(liked: str) -> dict[str, int]:
        (tmp_path / liked).mkdir()
        return dict(select(Recorder(), Liking(liked), tmp_path / liked)["selection"]["chosen"])

    boolean, summing = shares("boolean"), shares("summing")
    assert boolean["boolean 2"] > 1.5 * summing["boolean 2"]
    assert summing["summing 2"] > 1.5 * boolean["summing 2"]
    # A group ends at twice its share, so that others come in.
    assert all(
        sum(each.values()) > sum(n for g, n in each.items() if g.startswith(t))
        for t, each in (("boolean", boolean), ("summing", summing))
    )


def test_what_measures_is_drawn_at_random_in_the_first_round(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    held: list[set[str]] = []
    for name, liked in (("a", "boolean"), ("b", "summing")):
        select(Recorder(), Liking(liked), tmp_path / name)
        rows = read_labels(tmp_path / name / "out")
        held.append({row["question"] for row in rows if row["part"] == "heldout"})
    assert held[0] == held[1]
    assert len(held[0]) == pytest.approx(0.2 * COUNT, abs=6)


@pytest.mark.parametrize("patience", [0, 40, 60])
def test_a_stage_that_was_killed_asks_nothing_twice_and_ends_the_same(tmp_path: Path, patience: int) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Recorder()
    metrics = select(whole, Liking("boolean"), tmp_path / "whole")
    first, then, valuer = Recorder(patience), Recorder(), Liking("boolean")
    with pytest.raises(Killed):
        select(first, valuer, tmp_path / "killed")
    again = Liking("boolean")
    assert select(then, again, tmp_path / "killed") == metrics
    assert first.asked + then.asked == whole.asked
    # What was chosen before the kill is not chosen anew.
    assert not set(valuer.rounds) & set(again.rounds)
    assert read_labels(tmp_path / "killed" / "out") == read_labels(tmp_path / "whole" / "out")


def test_a_pool_that_is_too_small_is_asked_whole(tmp_path: Path) -> None:
    judge, (out, state) = Recorder(), (tmp_path / "out", tmp_path / "state")
    out.mkdir()
    pool = [choice for choice in POOL if choice.level == 1][:20]
    metrics = select_labels(judge, TASKS, pool, 30, Liking("summing"), SETTINGS, out, state, 1, silent)
    assert metrics["labels"] == len(set(judge.asked)) == len(pool)


def test_learners_value_questions_and_tell_what_it_cost(base: Path, tmp_path: Path) -> None:
    """With hardly any training; what they do is the same each time."""
    labels = SETTINGS.model_copy(update={"selection": SETTINGS.selection.model_copy(update={"steps": 3})})
    distill = DistillConfig(
        adapter=LINEAR,
        labels=labels,
        warm_start=WarmStartConfig(batch=8),
        reward=RewardConfig(members=2, batch=8),
    )
    pool = POOL[:60]
    rows = [
        {"question": c.question, "answer": TASKS[c.task].truth(c.question), "task": c.task, "level": c.level}
        | {"source": c.source, "part": "heldout" if place % 4 == 0 else "train"}
        for place, c in enumerate(pool)
    ]
    learners = Learners(base, None, TASKS, distill, tmp_path, 1)
    asked = [choice.question for choice in pool[40:]]
    learners.values(1, rows[:40], asked)
    values, cost = learners.values(2, rows, asked)
    assert learners.values(2, rows, asked) == (values, cost)  # as after a kill
    assert len(values) == len(pool) - 40
    assert min(values) >= 0 and max(values) > 0
    *learned, drawn, scored = cost
    for warm, reward in (learned[:2], learned[2:]):  # two members
        assert 0 < warm["train_tokens"] < reward["train_tokens"]
    assert drawn["forward_tokens"] > 0 and scored["forward_tokens"] > 0


def test_a_run_chooses_where_its_settings_say_so(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "debug.yaml")
    selection = SelectionConfig(by="double_thompson", rounds=2, pool=2, steps=2)
    labels = config.distill.labels.model_copy(update={"selection": selection})
    distill = config.distill.model_copy(update={"labels": labels})
    evaluator, stage = Evaluator(config.evaluation.questions, config.evaluation.attacks), "generation-0/labels"
    told: dict[str, dict[str, Any]] = {}
    for name, settings in (("random", config.distill), ("chosen", distill)):
        run(config.model_copy(update={"distill": settings}), tmp_path / name, evaluator, Silent(), until=stage)
        told[name] = read_done(tmp_path / name / stage).metrics
    assert told["chosen"]["labels"] == told["random"]["labels"]
    assert told["chosen"]["selection"]["by"] == "double_thompson"
    assert told["chosen"]["selection"]["candidates"] > told["chosen"]["labels"]
    assert "selection" not in told["random"]
    assert not list((tmp_path / "chosen").glob("*/*.state"))
