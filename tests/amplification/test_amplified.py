"""Meta-execution: right with an exact agent, honest with a broken one, and nothing asked twice."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode, StopReason
from amplification.errors import ServingError
from amplification.memo import Memo
from amplification.overseer import NOT_UNDERSTOOD, Decision, Overseer
from amplification.overseers.program import ProgramOverseer
from amplification.question import Question
from amplification.serving.base import Call, Completion, ModelRef
from amplification.store import Store
from amplification.tasks import TASKS, task_of
from amplification.workspace import Ask, Reply, SubQuestion, Workspace

AGENT = Agent("a", ModelRef("base"), "digest")


class ExactSampler:
    """Answers every question with the truth, except those it is told to get wrong; keeps the batches."""

    def __init__(self, wrong: dict[str, str] | None = None) -> None:
        self.wrong = wrong or {}
        self.batches: list[list[str]] = []

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        texts = [call.prompt.removesuffix(" :") for call in calls]
        self.batches.append(texts)
        return [Completion(self.wrong.get(text) or self._truth(text), len(text.split()), 2) for text in texts]

    def _truth(self, text: str) -> str:
        task = task_of(text)
        return task.truth(text) if task else "nonsense"

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


def amplified(sampler: ExactSampler, memo: Memo | None = None, **limits: int) -> Amplified:
    return Amplified(ProgramOverseer(TASKS), AGENT, Dispatcher(sampler, memo), Limits(**limits))


def ask(text: str, sampler: ExactSampler, memo: Memo | None = None, **limits: int) -> Episode:
    return asyncio.run(amplified(sampler, memo, **limits).answer(Question(text)))


@pytest.mark.parametrize("name", TASKS)
def test_with_an_exact_agent_every_level_is_exact(name: str) -> None:
    task, rng = TASKS[name], random.Random(0)
    for level in task.levels:
        for _ in range(50):
            text = task.sample(level, rng)
            result = ask(text, ExactSampler())
            assert (result.answer.text, result.stop) == (task.truth(text), StopReason.REPLIED)


def test_a_list_far_beyond_the_agents_levels_is_answered_by_copies_of_itself() -> None:
    sampler = ExactSampler()
    digits = " ".join(str(n % 10) for n in range(1_000))
    result = ask(f"sum of {digits}", sampler, workspace_chars=8_000, calls=4_000)
    assert result.answer.text == "4500"
    assert max(len(text.split()) for batch in sampler.batches for text in batch) <= len(["sum", "of"]) + 8


def test_what_a_refuses_is_broken_up_further() -> None:
    refused = {"sum of 1 2 3 4": "nonsense", "sum of 3 4": "nonsense"}
    result = ask("sum of 1 2 3 4 5 6 7 8", ExactSampler(wrong=refused))
    assert result.answer.text == "36"
    assert {child.question.text: child.by for child in result.tree.children if child.by == "amplified"} == {
        "sum of 1 2 3 4": "amplified"
    }


def test_what_cannot_be_answered_is_named() -> None:
    class Dumb(ExactSampler):
        def _truth(self, text: str) -> str:
            return "True"

    result = ask("sum of 3 7 1 2", Dumb(), depth=1, steps=2)
    assert not result.answer.ok


def test_a_question_without_sense_is_refused_without_a_call() -> None:
    sampler = ExactSampler()
    result = ask("sum of three", sampler)
    assert result.answer.failure == NOT_UNDERSTOOD
    assert sampler.batches == []


def test_sub_questions_of_many_episodes_travel_together() -> None:
    sampler = ExactSampler()
    questions = [Question(f"sum of {a} {b}") for a in range(10) for b in range(10)]

    async def run() -> list[Episode]:
        return [episode async for episode in amplified(sampler).answer_all(questions)]

    episodes = asyncio.run(run())
    assert [episode.answer.text for episode in episodes] == [str(a + b) for a in range(10) for b in range(10)]
    assert [len(batch) for batch in sampler.batches] == [10]  # the ten distinct single digits, once


def test_equal_calls_in_one_batch_cost_once() -> None:
    result = ask("sum of 5 5", ExactSampler())
    # both halves are one question, so H asks twice and the second answer is a memo hit
    assert (result.cost.calls, result.cost.memo_hits) in {(1, 1), (1, 0)}
    assert result.answer.text == "10"


def test_calls_run_out_honestly() -> None:
    result = ask("sum of " + " ".join("1234567890" * 20), ExactSampler(), calls=3)
    assert result.stop in {StopReason.OUT_OF_BUDGET, StopReason.GAVE_UP}
    assert "calls" in (result.answer.failure or "")


def test_a_workspace_never_shows_more_than_its_bound() -> None:
    result = ask("sum of 1 2 3 4", ExactSampler(), workspace_chars=10)
    assert result.answer.failure == "the workspace is full"


def test_a_model_that_fails_ends_the_episode_with_its_error() -> None:
    class Broken(ExactSampler):
        def sample(self, calls: Sequence[Call]) -> list[Completion]:
            raise ServingError("the model is gone")

    with pytest.raises(ServingError, match="gone"):
        ask("sum of 1 2", Broken())


def test_an_overseer_that_asks_for_ever_is_stopped() -> None:
    class Endless(Overseer):
        name = "endless"

        async def act(self, workspace: Workspace) -> Decision:
            return Decision(Ask((SubQuestion(Question("sum of 1"), recurse=True),)))

    runner = Amplified(Endless(), AGENT, Dispatcher(ExactSampler()), Limits(depth=5, steps=4))
    result = asyncio.run(runner.answer(Question("go")))
    assert result.stop is StopReason.OUT_OF_STEPS
    assert result.tree.size() <= 5**6


def test_what_one_process_asked_another_does_not_ask_again(tmp_path: Path) -> None:
    text = "how many of 1 2 3 4 5 6 7 8 are even"
    first, second = ExactSampler(), ExactSampler()
    paid = ask(text, first, Memo(Store.at(tmp_path / "s.sqlite"), "one"))
    other = ask(text, second, Memo(Store.at(tmp_path / "s.sqlite"), "two"))
    assert second.batches == []
    assert other.answer == paid.answer
    assert (other.cost.calls, other.cost.tokens) == (0, 0)
    assert (other.cost.memo_hits, other.cost.tokens_saved) == (paid.cost.calls, paid.cost.tokens)


def test_a_resumed_stage_asks_nothing_again_and_reports_the_same_cost(tmp_path: Path) -> None:
    texts = [f"sum of {a} {b} {a} {b}" for a in range(4) for b in range(4)]

    def costs(path: Path, sampler: ExactSampler, texts: list[str]) -> list[tuple[int, int, int]]:
        memo = Memo(Store.at(path), "stage")
        found = [ask(text, sampler, memo).cost for text in texts]
        return [(cost.calls, cost.memo_hits, cost.tokens) for cost in found]

    whole = costs(tmp_path / "whole.sqlite", ExactSampler(), texts)
    costs(tmp_path / "killed.sqlite", ExactSampler(), texts[:7])
    resumed_sampler = ExactSampler()
    resumed = costs(tmp_path / "killed.sqlite", resumed_sampler, texts)
    assert resumed == whole
    asked_again = {text for batch in resumed_sampler.batches for text in batch}
    assert len(asked_again) == sum(calls for calls, _, _ in whole[7:])


def test_an_unfinished_completion_is_a_failure_and_not_a_shorter_answer() -> None:
    assert AGENT.answer_from(Completion("12", 3, 4, finished=False)).failure == "the agent's answer was cut off"
    assert AGENT.answer_from(Completion(" ", 3, 1)).failure == "the agent returned nothing"


def test_a_reply_is_data_for_the_parent_and_capped() -> None:
    class Parrot(Overseer):
        name = "parrot"

        async def act(self, workspace: Workspace) -> Decision:
            if workspace.question.text == "child":
                return Decision(Reply("z" * 3_000))
            if not workspace.exchanges:
                return Decision(Ask((SubQuestion(Question("child"), recurse=True),)))
            assert workspace.characters() < 3_000
            [whole] = workspace.pointers
            return Decision(Reply(f"$1 has {whole.size}", (whole.digest,)))

    runner = Amplified(Parrot(), AGENT, Dispatcher(ExactSampler()), Limits())
    episode = asyncio.run(runner.answer(Question("root")))
    assert episode.answer.text == "$1 has 3000"
    assert episode.messages[episode.answer.pointers[0]].text == "z" * 3_000
