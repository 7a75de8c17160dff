"""RunResults: what the stages of a run wrote, as the report reads it. Every part is JSON-ready."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from eval.ladder import QUESTIONS, Ladder
from eval.overhead import GenerationCost

Json = dict[str, Any]
Cell = tuple[str, str]  # task, level
Share = tuple[int, int]  # successes, questions
Shares = dict[Cell, Share]


def _checked(ladder: Ladder) -> Ladder:
    for task, levels in ladder.items():
        for level, cell in levels.items():
            shares = [value for key, value in cell.items() if key != QUESTIONS]
            if cell.get(QUESTIONS, 0) < 1 or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"{task}, level {level}: expected 'questions' and accuracies, found {cell}")
    return ladder


CheckedLadder = Annotated[Ladder, AfterValidator(_checked)]


def shares_of(ladder: Ladder, answerer: str) -> Shares:
    """One answerer's counts, {(task, level): (correct, questions)}, in the cells that it was measured in."""
    return {
        (task, level): (round(cell[answerer] * cell[QUESTIONS]), int(cell[QUESTIONS]))
        for task, levels in ladder.items()
        for level, cell in levels.items()
        if answerer in cell
    }


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
    """Unacceptable answers by attack family; "off_distribution" is the family of questions that have a meaning.

    before: the agent before this generation's training; after: A(n); kinds: how A(n)'s were unacceptable, in numbers;
    undecided: questions on which H^A had no view, in no count; attacker_calls_to_failure: calls of A(n) until an
    attacker first made it fail, None if `attacker_call_cap` calls (0: none was tried) were not enough.
    """

    before: dict[str, Unacceptable] = {}
    after: dict[str, Unacceptable] = {}
    kinds: dict[str, dict[str, int]] = {}
    undecided: int = 0
    attacker_calls_to_failure: int | None = None
    attacker_call_cap: int = 0


class GenerationResults(Results):
    """One generation. `ladder` holds the answerers "agent" (A(n)), "agent_before_ppo" and "amplified" (H^A(n)), the
    last two where they were measured; others are left aside.

    The stages' own metrics, from `labels` on, are reported as they are; of `reward_model`, "heldout_accuracy" and
    "heldout_pairs" (where present) are also plotted.
    """

    n: int = Field(ge=0)
    seconds: float = 0.0
    ladder: CheckedLadder
    calls: Calls = Calls()
    costs: GenerationCost | None = None
    robustness: RobustnessResults = RobustnessResults()
    labels: Json = {}
    warm_start: Json = {}
    reward_model: Json = {}
    adversary: Json = {}
    ppo: Json = {}

    def shares(self, answerer: str) -> Shares:
        """Counts of "agent", "agent_before_ppo" or "amplified", by task and level."""
        return shares_of(self.ladder, answerer)


class RunResults(Results):
    """A run. `levels`: each task's levels in order, so that generation n was trained on levels[0..n] of each.

    `config` is JSON-ready; `base`: a ladder with the answerer "base"; `chance`: what `chance_ladder` returns.
    """

    name: str
    config: Json
    versions: dict[str, str] = {}
    seconds: float = 0.0
    levels: dict[str, tuple[int, ...]]
    base: CheckedLadder = {}
    chance: CheckedLadder = {}
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

    def trained_on(self, cell: Cell, n: int) -> bool:
        """Whether A(n) was trained on a cell's task and level."""
        return cell[1] in map(str, self.levels.get(cell[0], ())[: n + 1])
