"""Served: PPO's rollouts from a serving engine, with a fresh adapter for each update.

The engine answers and the trainer learns, and both must hold the same weights. So each update has a version of its own,
published as an immutable folder that no other version ever has; every rollout carries its version; and the trainer
computes the answers' log-probabilities once more by itself. Those are what it learns from, and where the engine's are
others it stops.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from amplification.serving.rollouts import Drawing, Drawn, RolloutSampler
from distill.rollout import DRAWN, Rollout, Shown, shown_tokens


class Served:
    """A `RolloutSampler` and the folders of the versions that it draws with, of which there is one at a time."""

    def __init__(self, sampler: RolloutSampler, write: Callable[[Path], None], folder: Path) -> None:
        """`write` puts the policy as it is now into a new folder; `folder` is this process's own and is emptied."""
        self.sampler, self.write, self.folder = sampler, write, folder
        self.version: int | None = None
        shutil.rmtree(folder, ignore_errors=True)  # what a killed training left

    def draw(
        self, version: int, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Drawing
    ) -> list[list[Drawn]]:
        """Draws for each prompt by the policy after `version` updates. Raises as the sampler does."""
        if self.sampler.gives_back:
            torch.cuda.empty_cache()  # what the trainer keeps for later is the engine's now
        self._publish(version)
        return self.sampler.draw(prompts, seeds, how)

    def close(self) -> None:
        """Give the engine's memory back, and take the last version off the disk."""
        self.sampler.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self, version: int) -> None:
        if version == self.version:  # drawn over again, with fewer prompts at once
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


def as_rollout(
    prompts: Sequence[Sequence[int]],
    drawn: Sequence[Sequence[Drawn]],
    longest: int,
    end: int,
    pad: int,
    shown: Shown | None = None,
) -> Rollout:
    """A prompt's answers side by side, with the sampler's log-probabilities; values are 0.

    What is `shown` takes the place of a prompt's first answer and has log-probabilities of 0.
    """
    rows = [answer for each in drawn for answer in each]
    given = shown_tokens(shown or [None] * len(prompts), len(rows) // len(prompts), longest)
    own = given[:, 0] == DRAWN
    for row in (~own).nonzero().flatten().tolist():
        tokens = given[row][given[row] != DRAWN].tolist()
        rows[row] = Drawn(tuple(tokens), (0.0,) * len(tokens))
    answers = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    logprobs = torch.zeros(len(rows), longest)
    for row, answer in enumerate(rows):
        count = len(answer.tokens)
        answers[row, :count] = torch.tensor(answer.tokens)
        logprobs[row, :count] = torch.tensor(answer.logprobs)
        mask[row, :count] = True
    ended = ((answers == end) & mask).any(dim=1)
    return Rollout(prompts, answers, mask, logprobs, torch.zeros_like(logprobs), ended, own)
