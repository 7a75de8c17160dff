"""H^A looks at PPO: a reward that is gamed ends it, one that is in doubt is refreshed, and a kill changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from amplification.episode import Cost
from amplification.errors import InputError
from distill.config import PPOSettings, RefreshConfig, RewardConfig, RunConfig, WatchConfig
from distill.configure import check
from distill.curriculum import watched_questions
from distill.ensemble import RewardEnsemble
from distill.held_out_judge import HeldOutJudge
from distill.pairs import Row
from distill.ppo import train_ppo
from distill.practice import Prompt
from distill.refresh import Watched
from distill.reward import make_pairs
from distill.weights import load_tokenizer, prompt_ids
from tests.distill.conftest import REWARD
from tests.distill.training import LINEAR, TASKS, asker, digits, greedy, labelled, silent

SETTINGS = PPOSettings(episodes=320, batch=32, critic_warmup=0, checkpoint_seconds=0, watch=WatchConfig(every=2))
NEVER, UNCHANGED = RefreshConfig(), RewardConfig()


class Scripted:
    """A judge that knows which digit is listed, and charges a call an answer."""

    def __init__(self) -> None:
        self.cost, self.asked = Cost(), list[str]()

    def verdicts(self, texts: Sequence[str]) -> list[str | None]:
        self.asked += texts
        self.cost.add(Cost(calls=len(texts), tokens=10 * len(texts)))
        return [TASKS["summing"].truth(text) for text in texts]


def watched(pairs: Sequence[Row] = (), refresh: RefreshConfig = NEVER) -> Watched:
    settings = REWARD.model_copy(update={"refresh": refresh})
    held_out = [text for place, text in enumerate(digits()) if place % 4 == 0]
    judge: Any = Scripted()
    return Watched(HeldOutJudge(judge, TASKS, held_out, settings, 0.2, judges=False), pairs, settings, LINEAR)


def share_right(base: Path, agent: Path) -> float:
    said = greedy(base, agent, digits())
    return sum(answer == TASKS["summing"].truth(q) for q, answer in zip(digits(), said, strict=True)) / len(said)


def test_a_reward_that_is_gamed_ends_training_and_the_best_agent_is_kept(
    base: Path, warm: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = load_tokenizer(base).convert_tokens_to_ids("0")

    def likes_zero(_: RewardEnsemble, prompts: Sequence[Any], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([[1.0 if zero in answer else -1.0 for answer in answers]] * 2)

    monkeypatch.setattr(RewardEnsemble, "answer_scores", likes_zero)
    settings = SETTINGS.model_copy(
        update={"episodes": 3_200, "learning_rate": 1e-2, "kl_coefficient": 0.0, "temperature": 4.0}
    )
    metrics = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path, 1, silent, None, watched())
    assert metrics["hacking_stopped"]
    assert metrics["episodes"] < settings.episodes
    first, last = metrics["looks"][0], metrics["looks"][-1]
    assert last["reward"] > first["reward"]
    assert last["rate"] < first["rate"]
    assert share_right(base, tmp_path) > 0.9
    unwatched = settings.model_copy(update={"watch": WatchConfig()})
    free = train_ppo(base, warm, reward, digits(), LINEAR, unwatched, tmp_path / "free", 1, silent, None, watched())
    assert "looks" not in free
    assert share_right(base, tmp_path / "free") < 0.5


def test_a_look_at_an_agent_that_recomputes_activations(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    """Its layers keep no cache while they train; what a look sees is the same."""
    told = []
    for name, recompute in (("kept", False), ("recomputed", True)):
        settings = SETTINGS.model_copy(update={"episodes": 64, "gradient_checkpointing": recompute})
        told.append(
            train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path / name, 1, silent, None, watched())
        )
    assert told[0]["looks"] == told[1]["looks"] != []


def test_a_look_counts_the_policys_own_answers_alone(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    """It is certain, and H^A says something else, which it is shown."""
    said = zip(digits(), greedy(base, warm, digits()), strict=True)
    prompts = [Prompt(text, "summing/1", f"{(int(answer) + 1) % 10}") for text, answer in said]
    settings = SETTINGS.model_copy(update={"episodes": 64, "batch": 64, "answers": 8, "temperature": 0.05})
    metrics = train_ppo(base, warm, reward, prompts, LINEAR, settings, tmp_path, 1, silent, None, watched())
    assert metrics["looks"][0]["reward"] == -1.0


def test_a_doubtful_reward_is_refreshed_and_a_kill_changes_nothing(
    base: Path, warm: Path, reward: Path, tmp_path: Path
) -> None:
    pairs = make_pairs(TASKS, labelled(digits()), asker(base, None), REWARD, 1)
    always = RefreshConfig(most=2, uncertainty=1e-6, questions=8, steps=5)

    def trained(name: str, progress: Any = silent) -> tuple[dict[str, Any], Watched]:
        told = watched(pairs, always)
        out, state = tmp_path / name, tmp_path / f"{name}.state"
        return train_ppo(base, warm, reward, digits(), LINEAR, SETTINGS, out, 1, progress, state, told), told

    whole, told = trained("whole")
    assert whole["refreshes"] == [0, 2]
    assert [look["update"] for look in whole["looks"]] == [0, 2, 4, 6, 8]
    asked: Any = told.judge.judge
    assert whole["judged"] == len(asked.asked) > len(told.judge.questions)
    assert whole["judge_cost"]["tokens"] == 10 * len(asked.asked)
    assert (whole["undecided"], whole["unreadable"], whole["left_out"]) == (0, 0, {"unanswered": 0})
    new = asked.asked[len(told.judge.questions) :]
    assert not set(new) & set(told.judge.questions)

    def interrupt(done: int, total: int) -> None:
        if done in (96, 224):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trained("killed", interrupt)
    again, told = trained("killed")
    resumed: Any = told.judge.judge
    assert resumed.asked == told.judge.questions  # no label is asked for twice
    dropped = {"episodes_per_second": 0}
    assert {**whole, **dropped} == {**again, **dropped}
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("wrong", [True, False])
def test_members_that_are_wrong_together_are_refreshed(
    base: Path, warm: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """They show no spread, so H^A has to tell: it sees the agent's answers otherwise than they do, or it does not."""
    right = {tuple(row): text for row, text in zip(prompt_ids(load_tokenizer(base), digits()), digits(), strict=True)}

    def scores(_: RewardEnsemble, prompts: Sequence[Any], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        said = load_tokenizer(base).batch_decode(answers, skip_special_tokens=True)
        asked = [TASKS["summing"].truth(right[tuple(prompt)]) for prompt in prompts]
        fits = [answer.strip() == truth for answer, truth in zip(said, asked, strict=True)]
        return torch.tensor([[1.0 if each != wrong else -1.0 for each in fits]] * 2)

    monkeypatch.setattr(RewardEnsemble, "answer_scores", scores)
    pairs = make_pairs(TASKS, labelled(digits()), asker(base, None), REWARD, 1)
    told = watched(pairs, RefreshConfig(most=1, uncertainty=10, disagreement=0.5, questions=8, steps=2))
    settings = SETTINGS.model_copy(update={"episodes": 64})
    metrics = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path, 1, silent, None, told)
    assert metrics["refreshes"] == ([0] if wrong else [])


def test_settings_that_do_not_go_together_are_refused() -> None:
    def config(ppo: PPOSettings, reward: RewardConfig = UNCHANGED) -> RunConfig:
        distill = RunConfig().distill.model_copy(update={"ppo": ppo, "reward": reward})
        return RunConfig().model_copy(update={"distill": distill})

    check(config(PPOSettings(watch=WatchConfig(every=4)), RewardConfig(refresh=RefreshConfig(most=1))), "x")
    with pytest.raises(InputError, match="one process"):
        check(config(PPOSettings(processes=2, watch=WatchConfig(every=4))), "x")
    with pytest.raises(InputError, match="looks at PPO"):
        check(config(PPOSettings(), RewardConfig(refresh=RefreshConfig(most=1))), "x")


def test_nobody_is_watched_by_what_was_taught() -> None:
    free = watched_questions(TASKS, 2, 60, (), seed=1)
    again = watched_questions(TASKS, 2, 60, free[:30], seed=1)
    assert len(free) == len(again) == 60
    assert not set(again) & set(free[:30])
    levels = [task.level_of(text) for text in free for task in TASKS.values() if task.level_of(text) is not None]
    assert 0.6 < levels.count(4) / 60 < 0.75
    with pytest.raises(InputError, match="none to watch"):
        watched_questions({"summing": TASKS["summing"]}, 0, 60, digits(), seed=1)
