"""Collapse: a policy that has no entropy left and answers badly. It explores nothing, so no reward can mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

# Nats a token, mean over an update, below which a policy says the same thing whatever is drawn.
NO_ENTROPY = 0.01
# So many updates in a row have to be like that.
UPDATES = 8
# Scores are centred: H^A's answers have +1 on average and others -1, so below 0 answers are rather others'.
BAD_SCORE = 0.0


class Collapse:
    """Watches for it, and keeps the weights of the last update that had entropy.

    A policy without entropy whose answers are good has learned what there was to learn, which is no collapse.
    """

    def __init__(self) -> None:
        self._good: list[torch.Tensor] = []

    def begun(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the last update had no entropy: from there on, a state of the training is not worth keeping."""
        return bool(history) and _dull(history[-1])

    def complete(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the policy has collapsed, from what each update recorded."""
        last = history[-UPDATES:]
        return len(last) == UPDATES and all(map(_dull, last))

    @torch.no_grad()
    def remember(self, trained: Sequence[torch.Tensor]) -> None:
        """These weights are good."""
        self._good = [parameter.detach().cpu().clone() for parameter in trained]

    @torch.no_grad()
    def go_back(self, trained: Sequence[torch.Tensor]) -> None:
        """Put the last good weights back."""
        for parameter, good in zip(trained, self._good, strict=True):
            parameter.copy_(good.to(parameter.device))


def _dull(entry: Mapping[str, float]) -> bool:
    return entry["entropy"] < NO_ENTROPY and entry["objective/scores"] < BAD_SCORE
