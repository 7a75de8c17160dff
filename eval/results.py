"""RunResults: what the stages of a run wrote, as the report reads it. Every part is JSON-ready.

A ladder here is what `eval.ladder.measure_ladder` returns for one answerer: each cell holds "questions" and that
answerer's accuracy, under whatever name it was measured.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from eval.ladder import QUESTIONS, Ladder
from eval.overhead import GenerationCost

Json = dict[str, Any]
Cell = tuple[str, str]  # task, level
Share = tuple[int, int]  # successes, questions
Shares = dict[Cell, Share]


def _one_answerer(ladder: Ladder) -> Ladder:
    for task, levels in ladder.items():
        for level, cell in levels.items():
            shares = [value for key, value in cell.items() if key != QUESTIONS]
            if len(shares) != 1 or cell.get(QUESTIONS, 0) < 1 or not 0 <= shares[0] <= 1:
                raise ValueError(f"{task}, level {level}: expected 'questions' and one accuracy, found {cell}")
    return ladder


OneLadder = Annotated[Ladder, AfterValidator(_one_answerer)]


def shares_of(ladder: Ladder) -> Shares:
    """A ladder of one answerer as counts: {(task, level): (correct, questions)}."""
    shares: Shares = {}
    for task, levels in ladder.items():
        for level, cell in levels.items():
            n = int(cell[QUESTIONS])
            value = next(value for key, value in cell.items() if key != QUESTIONS)
            shares[task, level] = (round(value * n), n)
    return shares


class Results(BaseModel):
    """Unknown keys are refused, so that nothing a stage measured is dropped in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Calls(Results):
    """Steps of the overseer, calls of the agent that reached the model, and calls that the memo answered."""

    overseer: int = Field(default=0, ge=0)
    agent: int = Field(default=0, ge=0)
    memo_hits: int = Field(default=0, ge=0)


class Unacceptable(Results):
    """Of `questions` of one family, so many got an unacceptable answer."""

    unacceptable: int = Field(ge=0)
    questions: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_share(self) -> Unacceptable:
        if self.unacceptable > self.questions:
            raise ValueError(f"{self.unacceptable} unacceptable answers to {self.questions} questions")
        return self


class RobustnessResults(Results):
    """Unacceptable answers by attack family (off-distribution questions are a family too).

    `before`: the agent as it was before this generation's adversarial training; `after`: A(n);
    `attacker_calls_to_failure`: calls of the attacker until A(n) first failed, None if it never did.
    """

    before: dict[str, Unacceptable] = {}
    after: dict[str, Unacceptable] = {}
    attacker_calls_to_failure: float | None = None


class GenerationResults(Results):
    """One generation. `before_ppo`, `after`: A(n) before and after PPO, at all levels; `amplified`: H^A(n).

    The last four are the stages' own metrics, reported as they are; of `reward_model`, "heldout_accuracy" and
    "heldout_pairs" (where present) are also plotted.
    """

    n: int = Field(ge=0)
    seconds: float = 0.0
    after: OneLadder
    before_ppo: OneLadder = {}
    amplified: OneLadder = {}
    calls: Calls = Calls()
    costs: GenerationCost | None = None
    robustness: RobustnessResults | None = None
    reward_model: Json = {}
    adversary: Json = {}
    ppo: Json = {}
    warm_start: Json = {}


class RunResults(Results):
    """A run. `levels`: each task's levels in order, so that generation n was trained on levels[0..n] of each.

    `base`: accuracy of the base model, `chance`: of a guess among the answers of the right form (`chance_ladder`).
    """

    name: str
    config: Json
    versions: dict[str, str] = {}
    seconds: float = 0.0
    levels: dict[str, tuple[int, ...]]
    base: OneLadder = {}
    chance: OneLadder = {}
    generations: list[GenerationResults]

    @model_validator(mode="after")
    def _in_order(self) -> RunResults:
        numbers = [generation.n for generation in self.generations]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"generations must be in order and each once, found {numbers}")
        return self

    def next_level(self, task: str, n: int) -> str | None:
        """The first level that A(n) was not trained on, which H^A(n) is asked for; None if there is none left."""
        levels = self.levels.get(task, ())
        return str(levels[n + 1]) if n + 1 < len(levels) else None
