"""A made-up run of four tasks and four generations, for the tests of claims and reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eval.results import RunResults

TASKS = ("counting", "summing", "permutation", "boolean")
LEVELS = (1, 2, 4, 8)
QUESTIONS = 400
CHANCE = {"counting": 0.2, "summing": 0.05, "permutation": 0.25, "boolean": 0.5}


def ladder(name: str, share: Any, highest: int = 3) -> dict[str, Any]:
    """A ladder of one answerer; `share(task, index of level)` gives its accuracy."""
    return {
        task: {
            str(level): {name: round(share(task, place) * QUESTIONS) / QUESTIONS, "questions": QUESTIONS}
            for place, level in enumerate(LEVELS[: highest + 1])
        }
        for task in TASKS
    }


def merged(*ladders: dict[str, Any]) -> dict[str, Any]:
    """Ladders of several answerers as one."""
    together: dict[str, Any] = {}
    for one in ladders:
        for task, levels in one.items():
            for level, cell in levels.items():
                together.setdefault(task, {}).setdefault(level, {}).update(cell)
    return together


def generation(n: int, **changes: Any) -> dict[str, Any]:
    """Generation n of a run in which every claim holds: A(n) knows levels[0..n], H^A(n) one level more."""

    def agent(task: str, place: int) -> float:
        return 0.985 - 0.005 * place if place <= n else CHANCE[task] + 0.15 * 0.5 ** (place - n)

    def before(task: str, place: int) -> float:
        return agent(task, place) - (0.06 if place == n else 0.0)

    def amplified(task: str, place: int) -> float:
        return 0.99 - 0.01 * place

    def family(rate: float, questions: int = 125) -> dict[str, int]:
        return {"unacceptable": round(rate * questions), "questions": questions}

    families = ("unknown words", "swapped halves", "two questions in one", "off_distribution")
    made: dict[str, Any] = {
        "n": n,
        "seconds": 95.0 + n,
        "ladder": merged(
            ladder("agent", agent),
            ladder("agent_before_ppo", before),
            ladder("amplified", amplified, min(n + 1, 3)),
        ),
        "calls": {"overseer": 1200 * (n + 1), "agent": 9600, "memo_hits": 5400 * n},
        "costs": {
            "plain_rl_flops": 1e12,
            "reward_learning_flops": 0.08e12,
            "robustness_flops": 0.02e12 + n * 0.01e12,
            "amplified_episodes": 200,
            "training_episodes": 8000,
            "amplified_tokens_per_episode": 30.0 * n,
            "amplified_tokens_per_episode_without_memo": 60.0 * n,
            "agent_tokens_per_episode": 20.0,
            "flops": 1.2e12,
        },
        "robustness": {
            "before": {name: family(0.4 / (n + 1) + 0.03 * place) for place, name in enumerate(families)},
            "after": {name: family(0.008 * place) for place, name in enumerate(families)},
            "attacker_calls_to_failure": 300 * (n + 1),
        },
        "reward_model": {"heldout_accuracy": 0.94 + 0.01 * n, "heldout_pairs": 400, "members": 2},
        "adversary": {
            "found": 41,
            "by_source": {
                "corpus": {"tried": 4_000, "judged": 20, "confirmed": 6, "kept": 5, "calls_to_first_failure": 12},
                "mutation": {"tried": 90, "judged": 45, "confirmed": 0, "calls_to_first_failure": None},
            },
        },
        "ppo": {"episodes": 8192, "kl": 0.0412, "episodes_per_second": 910.3},
        "warm_start": {"loss": 0.213, "steps": 160},
    }
    return made | changes


def run(generations: list[dict[str, Any]] | None = None, **changes: Any) -> RunResults:
    """The made-up run, with other generations or some of its parts replaced."""
    made: dict[str, Any] = {
        "name": "sample",
        "config": {"seed": 1, "tasks": list(TASKS), "limits": {"calls": 1000, "seconds": 600.0}},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "seconds": 431.0,
        "levels": {task: list(LEVELS) for task in TASKS},
        "base": ladder("base", lambda task, place: CHANCE[task]),
        "chance": {
            task: {str(level): {"chance": CHANCE[task], "questions": QUESTIONS} for level in LEVELS} for task in TASKS
        },
        "generations": [generation(n) for n in range(4)] if generations is None else generations,
    }
    return RunResults.model_validate(made | changes)


@pytest.fixture
def sample() -> SimpleNamespace:
    """The makers of made-up results: run, generation, ladder, merged."""
    return SimpleNamespace(run=run, generation=generation, ladder=ladder, merged=merged, levels=LEVELS, tasks=TASKS)
