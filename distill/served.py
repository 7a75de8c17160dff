"""Served: PPO's rollouts from a serving engine, with a fresh adapter for each update.

The engine answers and the trainer learns, and both must hold the same weights. So each update has a version of its own,
published as an immutable folder that no other version ever has; every rollout carries its version; and the trainer
computes the answers' log-probabilities once more by itself. Those are what it learns from, and where the engine's are
others it stops.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from amplification.serving.rollouts import Drawn, RolloutSampler
from distill.rollout import Rollout, chosen

if TYPE_CHECKING:
    from distill.ppo_trainer import PPOTrainer


class Served:
    """A `RolloutSampler` and the folders of the versions that it draws with, of which there is one at a time."""

    def __init__(self, sampler: RolloutSampler, write: Callable[[Path], None], folder: Path) -> None:
        """`write` puts the policy as it is now into a new folder; `folder` is this process's own and is emptied."""
        self.sampler, self.write, self.folder = sampler, write, folder
        self.version: int | None = None
        shutil.rmtree(folder, ignore_errors=True)  # what a killed training left

    def draw(
        self,
        version: int,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        answers: int,
        temperature: float,
        longest: int,
        end: int,
    ) -> list[list[Drawn]]:
        """`answers` draws for each prompt by the policy after `version` updates. Raises as the sampler does."""
        if self.sampler.gives_back:
            torch.cuda.empty_cache()  # what the trainer keeps for later is the engine's now
        self._publish(version)
        return self.sampler.draw(prompts, seeds, answers, temperature, longest, end)

    def close(self) -> None:
        """Give the engine's memory back, and take the last version off the disk."""
        self.sampler.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self, version: int) -> None:
        if version == self.version:  # drawn over again, with fewer rows at once
            return
        target = self.folder / f"version-{version}"
        partial = target.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        self.write(partial)
        partial.replace(target)
        self.sampler.publish(target)
        if self.version is not None:
            shutil.rmtree(self.folder / f"version-{self.version}")
        self.version = version


@torch.no_grad()
def sample(trainer: PPOTrainer, served: Served, prompts: Sequence[Sequence[int]], answers: int = 1) -> Rollout:
    """The update's prompts answered by the engine, with the trainer's own log-probabilities and values.

    Raises StageError where the engine's log-probabilities are others.
    """
    args, tokenizer = trainer.args, trainer.processing_class
    seeds, longest = trainer.draws.seeds(trainer.update), args.response_length
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    drawn = served.draw(trainer.update, prompts, seeds, answers, args.temperature, longest, end)
    theirs = as_rollout(prompts, drawn, longest, end, pad)
    logprobs, values = torch.zeros_like(theirs.logprobs), torch.zeros_like(theirs.values)
    for part, ids, positions in trainer.parts_of(theirs.rows(), theirs):
        with trainer.precision():
            logits, states = trainer.inner(ids, positions)
        logprobs[part] = chosen(logits.cpu(), theirs.answers[part], args.temperature)[0]
        values[part] = states.cpu()
    drift = torch.where(theirs.mask, logprobs - theirs.logprobs, 0.0)
    trainer.check_drift(drift)
    kept = [torch.where(theirs.mask, each, 0.0) for each in (logprobs, values)]
    return replace(theirs, logprobs=kept[0], values=kept[1], drift=float(drift.abs().max()))


def as_rollout(
    prompts: Sequence[Sequence[int]], drawn: Sequence[Sequence[Drawn]], longest: int, end: int, pad: int
) -> Rollout:
    """Rows prompt by prompt, a prompt's answers side by side, with the sampler's log-probabilities; values are 0."""
    rows = [(prompt, answer) for prompt, each in zip(prompts, drawn, strict=True) for answer in each]
    answers = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    logprobs = torch.zeros(len(rows), longest)
    for row, (_, answer) in enumerate(rows):
        count = len(answer.tokens)
        answers[row, :count] = torch.tensor(answer.tokens)
        logprobs[row, :count] = torch.tensor(answer.logprobs)
        mask[row, :count] = True
    ended = ((answers == end) & mask).any(dim=1)
    return Rollout([prompt for prompt, _ in rows], answers, mask, logprobs, torch.zeros_like(logprobs), ended)
