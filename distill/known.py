"""The reward of answers: H^A's own judgement where it has been asked the question, the learned reward elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from distill.tree import answered

# Token ids of prompts, and of the answer to each -> rewards [n].
Learned = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], torch.Tensor]
# What H^A's answer and any other one have on average, as learned rewards are centred and scaled.
ACCEPTABLE, OTHER = 1.0, -1.0


class KnownReward:
    """Rewards of rows of token ids; each distinct row is scored once, and H^A's judgement costs nothing.

    `known`: H^A's answers by prompt, as token ids, the end included; an answer with another meaning is not acceptable
    (`distill.reward.make_pairs` has the same view of a program's labels). `tokens`: what went through each member.
    """

    def __init__(self, learned: Learned, known: Mapping[tuple[int, ...], tuple[int, ...]]) -> None:
        self.learned, self.known = learned, dict(known)
        self.tokens = 0

    def __call__(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rewards [n] of answers, each with its prompt."""
        pairs = [(tuple(prompt), tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        found = dict.fromkeys(pairs, 0.0)
        asked = [pair for pair in found if pair[0] not in self.known]
        if asked:
            given, said = zip(*asked, strict=True)
            self.tokens += answered(given, said).tokens()
            found.update(zip(asked, self.learned(given, said).float().tolist(), strict=True))
        for prompt, answer in found:
            if prompt in self.known:
                found[prompt, answer] = ACCEPTABLE if answer == self.known[prompt] else OTHER
        return torch.tensor([found[pair] for pair in pairs])
