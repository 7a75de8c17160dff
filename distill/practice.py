"""Practice: which prompts an update of PPO has.

It depends on the seed, the update and what was learned before it, so that a training that carries on, or is shared by
several processes, has the same prompts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from distill.lessons import FLOOR, RATE, UNKNOWN

ATTACK = "attack/"


class Prompt(NamedTuple):
    """A question to practise on. `group`: its task and level, or ATTACK and what made it; `answer`: H^A's, if asked."""

    question: str
    group: str = ""
    answer: str | None = None


def capped(prompts: Sequence[Prompt], share: float) -> list[Prompt]:
    """`prompts` with at most `share` of attacks: the last ones of them. If there are attacks alone, they all stay."""
    hostile = [place for place, prompt in enumerate(prompts) if prompt.group.startswith(ATTACK)]
    others = len(prompts) - len(hostile)
    most = math.ceil(others * share / (1 - share)) if others else len(hostile)
    dropped = set(hostile[: max(0, len(hostile) - most)])
    return [prompt for place, prompt in enumerate(prompts) if place not in dropped]


class Practice:
    """All prompts alike: epochs of shuffled prompts, one after the other. `drawn`: how many came of each group."""

    def __init__(self, groups: Sequence[str], seed: int) -> None:
        """`groups`: that of each prompt."""
        self.group_of, self.seed = list(groups), seed
        self.rows: dict[str, list[int]] = {}
        for place, group in enumerate(groups):
            self.rows.setdefault(group, []).append(place)
        self.drawn: dict[str, int] = dict.fromkeys(self.rows, 0)
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def places(self, update: int, count: int) -> list[int]:
        """`count` places of prompts for an update, over all processes."""
        everything = range(len(self.group_of))
        chosen = [self._shuffled("", everything, number) for number in range(update * count, (update + 1) * count)]
        for place in chosen:
            self.drawn[self.group_of[place]] += 1
        return chosen

    def earned(self, places: Sequence[int], rewards: torch.Tensor) -> torch.Tensor:
        """Sums over this process's prompts at `places`, from the mean rewards [n] of their answers."""
        return torch.zeros(0)

    def learned(self, sums: torch.Tensor) -> None:
        """`earned`, added up over all processes."""

    @property
    def attacks(self) -> int:
        """How many attacks came."""
        return sum(count for group, count in self.drawn.items() if group.startswith(ATTACK))

    def is_attack(self, place: int) -> bool:
        """Whether the prompt there is an attack."""
        return self.group_of[place].startswith(ATTACK)

    def state(self) -> dict[str, Any]:
        """JSON-ready: what `restore` takes."""
        return {"drawn": dict(self.drawn)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.drawn = dict(state["drawn"])

    def _shuffled(self, name: str, places: Sequence[int], number: int) -> int:
        """The one of that number in places that are shuffled anew each time round."""
        turn, within = divmod(number, len(places))
        known = self._orders.get(name)
        if known is None or known[0] != turn:
            order = list(places)
            random.Random(f"{self.seed}/prompts/{name}/{turn}").shuffle(order)
            known = self._orders[name] = (turn, order)
        return known[1][within]


class Hardest(Practice):
    """Groups by how little their answers earn, as `distill.lessons` draws them by their loss.

    A reward of 1, that of H^A's answers, counts as a loss of 0, and one of -1 as 1. Attacks of all kinds together are
    at most `share` of the prompts, in expectation, however badly they are answered.
    """

    def __init__(self, groups: Sequence[str], seed: int, share: float) -> None:
        super().__init__(groups, seed)
        self.share = share
        self.loss: dict[str, float] = dict.fromkeys(self.rows, UNKNOWN)

    def places(self, update: int, count: int) -> list[int]:
        weights = self._weights()
        rng = random.Random(f"{self.seed}/groups/{update}")
        chosen = []
        for group in rng.choices(list(weights), list(weights.values()), k=count):
            chosen.append(self._shuffled(group, self.rows[group], self.drawn[group]))
            self.drawn[group] += 1
        return chosen

    def earned(self, places: Sequence[int], rewards: torch.Tensor) -> torch.Tensor:
        """Losses and how many there are, by group [groups, 2]."""
        names = {name: number for number, name in enumerate(self.rows)}
        sums = torch.zeros(len(names), 2)
        for place, reward in zip(places, rewards.tolist(), strict=True):
            loss = min(max((1 - reward) / 2, 0.0), 1.0)
            sums[names[self.group_of[place]]] += torch.tensor([loss, 1.0])
        return sums

    def learned(self, sums: torch.Tensor) -> None:
        for name, (loss, count) in zip(self.rows, sums.tolist(), strict=True):
            if count:
                self.loss[name] += RATE * (loss / count - self.loss[name])

    def state(self) -> dict[str, Any]:
        return {**super().state(), "loss": dict(self.loss)}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.loss = dict(state["loss"])

    def _weights(self) -> dict[str, float]:
        weights = {name: loss + FLOOR for name, loss in self.loss.items()}
        hostile = {name: weight for name, weight in weights.items() if name.startswith(ATTACK)}
        others = sum(weights.values()) - sum(hostile.values())
        if hostile and others:
            held = min(1.0, others * self.share / (1 - self.share) / sum(hostile.values()))
            weights |= {name: weight * held for name, weight in hostile.items()}
        return weights
