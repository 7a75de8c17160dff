"""Questions that make no sense: does adversarial training reach kinds and families that it was not trained on?

Four kinds: malformed, ambiguous, contradictory, carrying an instruction. Training families and the held-out ones, which
alone are measured, differ. Arms: the same training without attacks, with the training families and no search, and with
the searches on top. What these know and the families do not is the vocabulary of the tokenizer, which has the words
of the held-out families, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from pydantic import Field

from amplification.tasks.attacks import AttackFamily, Kind, attacks, families, further_words
from amplification.tasks.base import NONSENSE, questions
from distill.adversary import calls_to_failure
from distill.experiments import base
from distill.experiments.hardening import Arm, HardeningConfig, Lab, unacceptable
from distill.progress import Progress, silent


class Config(HardeningConfig):
    """`calls`: cap of the attacker that measures."""

    calls: int = Field(default=1_000, ge=1)


def run(config: Config, seed: int, folder: Path, progress: Progress) -> dict[str, base.Arm]:
    """Rates of unacceptable answers to held-out families of each kind, before and after each arm."""
    lab = Lab(config, seed, folder, further_words())
    known = families(held_out=False, further=True)
    share = config.distill.adversary.share
    arms = {
        "ordinary training": Arm(0.0, known, search=False),
        "attack families": Arm(share, known, search=False),
        "adversary": Arm(share, known, search=True, unfamiliar=further_words()),
    }
    try:
        lab.begin(lab.ordinary(), silent)
        results = {"before": base.Arm(measured(lab, None, config, seed))}
        for place, (name, arm) in enumerate(arms.items()):
            done = lab.harden(name, arm, silent)
            results[name] = base.Arm(measured(lab, done.agent, config, seed))
            progress(place + 1, len(arms))
    finally:
        lab.close()
    return results


def measured(lab: Lab, adapter: Path | None, config: Config, seed: int) -> dict[str, float]:
    """Figures of one agent: rates in [0, 1] by kind and over all kinds alike, then what it costs elsewhere."""
    answer, judge = lab.answer(adapter), lab.alone().verdicts
    rates: dict[str, float] = {}
    for kind in get_args(Kind):
        among = [family for family in families(held_out=True, further=True) if family.kind == kind]
        texts = held_out(lab, among, config, seed)
        rates[kind] = unacceptable(answer(texts), judge(texts))
    plain = [
        text
        for task in lab.tasks.values()
        for size in task.levels[: config.level + 1]
        for text in islice(questions(task, size, "held_out", seed), config.measured)
    ]
    given, right = answer(plain), judge(plain)
    calls = calls_to_failure(lab.tasks, lab.target(adapter), config.level, config.calls, 10_000 + seed, attackers=3)
    return {
        **rates,
        "all kinds": sum(rates.values()) / len(rates),
        "accuracy": 1 - unacceptable(given, right),
        "refused": sum(text == NONSENSE for text in given) / len(given),
        "attacker's calls": float(config.calls if calls is None else calls),
    }


def held_out(lab: Lab, among: Sequence[AttackFamily], config: Config, seed: int) -> list[str]:
    """As many attacks of these families, each alike."""
    made = attacks(lab.tasks, config.measured, held_out=True, seed=seed, up_to=config.level, among=among)
    return [attack.text for attack in made]
