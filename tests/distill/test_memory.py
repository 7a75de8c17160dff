"""Out of memory: fewer rows go through the model at once, and what is learned stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.actor_critic import ActorCritic
from distill.config import PPOSettings
from distill.drawn import drawn_answers
from distill.ensemble import ROWS_AT_ONCE, RewardEnsemble, _Members
from distill.memory import OutOfMemory, Part
from distill.ppo import train_ppo
from distill.tree import Rows
from distill.weights import load_tokenizer, prompt_ids
from tests.distill.training import FULL, LINEAR, digits, silent

FITS = 8
SETTINGS = PPOSettings(episodes=64, batch=32, critic_warmup=0, learning_rate=1e-3)


def test_the_rows_are_halved_until_they_fit_and_it_is_said() -> None:
    part, tried = Part(64), list[int]()

    def work() -> int:
        tried.append(part.rows)
        if part.rows > FITS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return part.rows

    with pytest.warns(RuntimeWarning, match=r"out of memory with \d+ rows.*its batch stays the same"):
        assert part.fitting(work) == FITS
    assert tried == [64, 32, 16, 8]
    assert part.fitting(work) == FITS  # it is remembered
    assert len(tried) == 5


@pytest.mark.parametrize(
    ("rows", "alone", "remedy"),
    [
        (1, True, r"with one row at once; take a smaller model"),
        (64, False, r"set distill\.ppo\.part to 32 and run again"),
    ],
)
def test_where_nothing_can_be_halved_training_ends_with_a_remedy(rows: int, alone: bool, remedy: str) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match=remedy):
        Part(rows, alone).fitting(work)


@pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
def test_training_in_smaller_parts_learns_the_same(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds the tokens of `FITS` prompts, against one that was told so."""
    told = SETTINGS.model_copy(update={"part": FITS})
    train_ppo(base, None, reward, digits(), LINEAR, told, tmp_path / "told", 1, silent)
    whole, longest = ActorCritic.forward, max(map(len, _prompts(base)))

    def small(self: ActorCritic, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if ids.numel() > FITS * (longest + 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, *rest, **more)

    monkeypatch.setattr(ActorCritic, "forward", small)
    found = train_ppo(base, None, reward, digits(), LINEAR, SETTINGS, tmp_path / "found", 1, silent)
    assert found["part"] == FITS
    assert found["episodes"] == SETTINGS.episodes
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("found", "told"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
def test_a_step_that_is_done_again_begins_without_gradients(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out once, in the third of four pieces; those before it must not count twice."""
    settings = SETTINGS.model_copy(update={"part": 8, "episodes": 32, "epochs": 1})
    whole, pieces = ActorCritic.forward, list[int]()

    def once(self: ActorCritic, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if torch.is_grad_enabled():
            pieces.append(len(ids))
            if len(pieces) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, *rest, **more)

    seen = list[list[torch.Tensor]]()
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *rest: Any, **more: Any) -> Any:
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None])
        return step(self, *rest, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    train_ppo(base, None, reward, digits(), FULL, settings, tmp_path / "plain", 1, silent)
    monkeypatch.setattr(ActorCritic, "forward", once)
    train_ppo(base, None, reward, digits(), FULL, settings, tmp_path / "again", 1, silent)
    assert len(pieces) == 3 + 8  # the step once more, in pieces of half the prompts
    plain, again = seen
    for mine, theirs in zip(again, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:out of memory:RuntimeWarning")
def test_prompts_are_chosen_once_an_update(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which prompts come hangs on what came before, so an answer that is drawn again is to the same prompt."""
    hardest = SETTINGS.model_copy(update={"part": 32, "prompts": "hardest", "answers": 2, "epochs": 1})
    whole, calls = ActorCritic.forward, list[int]()

    def once(self: ActorCritic, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        calls.append(len(ids))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, *rest, **more)

    plain = train_ppo(base, None, reward, digits(), LINEAR, hardest, tmp_path / "plain", 1, silent)
    monkeypatch.setattr(ActorCritic, "forward", once)
    again = train_ppo(base, None, reward, digits(), LINEAR, hardest, tmp_path / "again", 1, silent)
    assert again["prompts"] == plain["prompts"] == hardest.episodes // 2
    assert again["reward_before"] == pytest.approx(plain["reward_before"], abs=1e-4)


def _prompts(base: Path) -> list[list[int]]:
    return prompt_ids(load_tokenizer(base), digits())


def test_scoring_goes_on_with_fewer_prompts(base: Path, reward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores; what went through the members is counted once."""
    whole, plain, short = _Members.at, *(RewardEnsemble.load(base, reward) for _ in range(2))
    questions, answers = digits(), ["1"] * len(digits())
    expected, most = plain.scores(questions, answers), len(questions) // 4

    def small(self: _Members, rows: Rows) -> torch.Tensor:
        if len(rows.states) > 4 * most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, rows)

    monkeypatch.setattr(_Members, "at", small)
    with pytest.warns(RuntimeWarning, match="its batch stays the same"):
        found = short.scores(questions, answers)
    assert torch.allclose(found, expected, atol=1e-5)
    assert short.scored_tokens == plain.scored_tokens
    assert short.part.rows < ROWS_AT_ONCE


def test_answers_are_drawn_with_fewer_prompts_at_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, texts = ActorCritic.forward, digits()
    expected, longest = drawn_answers(base, None, texts, 4, 1, 1.0, 1), max(map(len, _prompts(base)))

    def small(self: ActorCritic, ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if ids.numel() > FITS * longest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, *rest, **more)

    monkeypatch.setattr(ActorCritic, "forward", small)
    with pytest.warns(RuntimeWarning, match="its batch stays the same"):
        assert drawn_answers(base, None, texts, 4, 1, 1.0, 1) == expected
