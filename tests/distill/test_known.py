"""H^A's own judgement as the reward where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.known import KnownReward

PROMPTS = [(1, 2), (1, 2), (3,), (3,), (3,)]
ANSWERS = [(5, 9), (6, 9), (5, 9), (6, 9), (5, 9)]


def test_what_h_a_has_answered_is_not_asked_and_each_other_answer_once() -> None:
    asked: list[tuple[Sequence[int], Sequence[int]]] = []

    def learned(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        asked.extend(zip(prompts, answers, strict=True))
        return torch.tensor([answer[0] / 10 for answer in answers])

    reward = KnownReward(learned, {(1, 2): (6, 9)})
    assert torch.allclose(reward(PROMPTS, ANSWERS), torch.tensor([-1.0, 1.0, 0.5, 0.6, 0.5]))
    assert asked == [((3,), (5, 9)), ((3,), (6, 9))]
    assert reward.tokens == 1 + 2 + 2


def test_an_answer_without_an_end_is_not_h_as() -> None:
    reward = KnownReward(lambda prompts, answers: torch.zeros(len(answers)), {(1,): (6, 9)})
    assert reward([(1,), (1,)], [(6,), (6, 9)]).tolist() == [-1.0, 1.0]
