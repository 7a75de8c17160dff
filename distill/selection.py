"""Selection: which candidate questions H^A is asked, given what an ensemble of reward models says of A's answers.

Each rule gives a question a value from the members' scores of the agent's own sampled answers to it:

- disagreement: how far the members are apart on which of two answers is better. Source: Christiano et al., "Deep
  reinforcement learning from human preferences" (arXiv 1706.03741, 2017), section 2.2.4.
- double_thompson: two members are drawn; each has a favourite among the answers. Where the two favourites differ, the
  question is worth what each member thinks of the other's. Sources: Wu and Liu, "Double Thompson sampling for dueling
  bandits" (arXiv 1604.07101, 2016), whose arms are A's answers here; Dwaracherla et al., "Efficient exploration for
  LLMs" (arXiv 2402.00396, 2024), where the draws are from an ensemble. Both choose the answers to one given question;
  the question, too, is chosen here.

What has the highest value is of one kind: a task that is learned last, many wordings of one problem. So a batch is
drawn and not cut off (`pick`), and no group has more than its share. Source: Kirsch et al., "Stochastic batch
acquisition" (arXiv 2106.12059, 2021).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import torch

# No group (a task at a level) gives more of a batch than so many times its share of the candidates.
MOST_OF_A_GROUP = 2.0


def disagreement(scores: torch.Tensor) -> float:
    """From scores [members, answers]: the variance of the members' preference, for the two answers where it is highest.

    At most 0.25; 0 where there is one answer alone or one member.
    """
    preferences = torch.sigmoid(scores[:, :, None] - scores[:, None, :])
    return float(preferences.var(dim=0, unbiased=False).max())


def double_thompson(scores: torch.Tensor, rng: random.Random) -> float:
    """From scores [members, answers]: how surely two members drawn at random prefer their favourites to each other's.

    In [0, 1]; 0 where the favourites are the same answer.
    """
    first, second = (scores[member] for member in _two(len(scores), rng))
    a, b = int(first.argmax()), int(second.argmax())
    return float(torch.sigmoid(first[a] - first[b]) + torch.sigmoid(second[b] - second[a])) - 1


def value_of(by: str, scores: torch.Tensor, rng: random.Random) -> float:
    """The value by one of the rules, from scores [members, answers]; 0 where the agent said nothing."""
    if by not in ("disagreement", "double_thompson"):
        raise ValueError(f"'{by}' is no rule that looks at scores")
    if scores.shape[1] == 0:
        return 0.0
    return disagreement(scores) if by == "disagreement" else double_thompson(scores, rng)


def pick(values: Sequence[float], groups: Sequence[str], count: int, rng: random.Random) -> list[int]:
    """Places of `count` candidates (of all, where there are fewer), in the order in which they were drawn.

    Drawn without replacement with probabilities proportional to their values; those of value 0 come last, at random.
    Source of the draw: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006). No group gives more
    than `MOST_OF_A_GROUP` times its share, unless there is nothing else.
    """
    drawn = [(math.log(1 - rng.random()) / value if value > 0 else -math.inf, rng.random()) for value in values]
    order = sorted(range(len(values)), key=drawn.__getitem__, reverse=True)
    most = {group: math.ceil(MOST_OF_A_GROUP * count * n / len(groups)) for group, n in Counter(groups).items()}
    taken, left = list[int](), list[int]()
    for place in order:
        inside = most[groups[place]] > 0 and len(taken) < count
        most[groups[place]] -= inside
        (taken if inside else left).append(place)
    return taken + left[: count - len(taken)]


def _two(members: int, rng: random.Random) -> tuple[int, int]:
    """Two different members; the same one twice where there is no other."""
    first, second = rng.sample(range(members), 2) if members > 1 else (0, 0)
    return first, second
