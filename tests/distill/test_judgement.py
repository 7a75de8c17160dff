"""A judgement by a language model: it is asked for in the form that is read, and what cannot be read is counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.overseers.config import LanguageModelConfig, OverseerConfig
from amplification.overseers.language_model import LanguageModelOverseer
from amplification.question import Answer
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.scripted import ScriptedSampler
from distill.config import RewardConfig, RunConfig
from distill.held_out_judge import HeldOutJudge
from distill.iterate import Iteration, Turn
from distill.judgement import Judge, Judgement
from distill.labels import write_labels
from distill.reward import make_pairs
from tests.distill.training import TASKS, labelled, silent


def judge_by(model: Any) -> Judge:
    agent = Agent("h", ModelRef("h"), "h", SamplingParams(max_tokens=100), "step_short")
    dispatcher = Dispatcher(ScriptedSampler(answers=model))
    overseer = LanguageModelOverseer(agent, dispatcher, 8_000)
    return Judge(Amplified(overseer, agent, dispatcher, Limits()), "reward")


def example(call: Call) -> str:
    """Writes the last judgement that the prompt gives as an example."""
    return json.dumps({"reply": re.findall(r"acceptable: .*", call.prompt)[-1]})


def mixed(call: Call) -> str:
    """Judges sum of 3 in other words than asked for, gives sum of 4 up, and disowns the label of sum of 5."""
    if "sum of 3" in call.prompt:
        return '{"reply": "The first one is right."}'
    return '{"give_up": "too hard"}' if "sum of 4" in call.prompt else '{"reply": "acceptable: 2; best: 2"}'


def shown_as_text(model: Any) -> Any:
    """The same with the judged question looked at first, which is a pointer."""

    def steps(call: Call) -> str:
        return str(model(call)) if "looked at $1" in call.prompt else '{"look": "$1"}'

    return steps


def test_a_model_that_follows_the_form_it_is_shown_is_read() -> None:
    judge = judge_by(example)
    (found,) = judge.judge([("sum of 3", ["3", "4", "5"])])
    assert found == Judgement("sum of 3", ("3", "4", "5"), (True, False, True), 2, (7.0, -2.0, 9.5))
    assert judge.unreadable == 0


def test_judgements_that_come_to_nothing_are_counted() -> None:
    judge, left_out = judge_by(shown_as_text(mixed)), Counter[str]()
    rows = labelled(["sum of 3", "sum of 4", "sum of 5"])
    pairs = make_pairs(TASKS, rows, lambda texts: [Answer("7")] * len(texts), RewardConfig(), 1, judge.judge, left_out)
    assert pairs == []
    assert left_out == {"undecided": 2, "disowned": 1}
    assert judge.unreadable == 1


def test_a_refresh_counts_what_gave_no_label() -> None:
    class Scripted:
        cost, unreadable = Cost(), 0

        def verdicts(self, texts: Any) -> list[str | None]:
            return ["3" if text == "sum of 3" else None for text in texts]

        def judge(self, asked: Any) -> list[Judgement | None]:
            self.unreadable += len(asked)
            return [None] * len(asked)

    scripted: Any = Scripted()
    judge, left_out = HeldOutJudge(scripted, TASKS, [], RewardConfig(), 0.2, judges=True), Counter[str]()
    assert judge.pairs(["sum of 3", "sum of 4"], ["5", "5"], 1, left_out) == []
    assert left_out == {"unanswered": 1, "undecided": 1, "disowned": 0}
    assert judge.unreadable == 1


def test_stages_tell_what_came_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the training itself left out."""
    rows = labelled(["sum of 3", "sum of 4", "sum of 5"])
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, kept in zip(folders, (rows, [rows[0] | {"answer": "8"}]), strict=True):
        folder.mkdir()
        write_labels(kept, len(kept), folder)
    monkeypatch.setattr("distill.imitation.warm_start", lambda *_: {})
    monkeypatch.setattr("distill.reward.train_reward", lambda *_: {})
    overseer = OverseerConfig(kind="language_model", language_model=LanguageModelConfig(model="some/model"))
    nobody: Any = None
    iteration = Iteration(RunConfig(overseer=overseer), tmp_path / "run", nobody, nobody)
    monkeypatch.setattr(iteration.models, "agent", lambda *_: None)
    monkeypatch.setattr(iteration.models, "asker", lambda *_: lambda texts: [Answer("7")] * len(texts))
    monkeypatch.setattr(iteration.models, "judge", lambda *_: judge_by(shown_as_text(mixed)))
    turn = Turn("generation-0", 0, 1)
    assert iteration._warm_start(turn, tmp_path, None, folders)(tmp_path, silent) == {"contradicted": 1}
    told = iteration._reward(turn, nobody, tmp_path, None, folders)(tmp_path, silent)
    iteration.close()
    assert (told["judged"], told["undecided"], told["unreadable"], told["disowned"]) == (3, 2, 1, 1)
    assert told["contradicted"] == 1
