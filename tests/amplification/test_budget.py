"""The budget is conserved however a tree branches, fails or overspends."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Account, Limits, OutOfBudget, rounded
from amplification.dispatch import Dispatcher
from amplification.episode import Episode, StopReason
from amplification.overseer import Decision, Overseer
from amplification.question import Question
from amplification.serving.base import Call, Completion, ModelRef
from amplification.workspace import Action, Ask, GiveUp, Look, Reply, SubQuestion, Workspace


class CountingSampler:
    """Answers anything at the highest cost that the budget's bound allows, and counts."""

    def __init__(self) -> None:
        self.calls = self.tokens = 0

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        done = []
        for call in calls:
            completion = Completion("x", len(call.prompt.encode()), call.params.max_tokens)
            self.calls += 1
            self.tokens += completion.prompt_tokens + completion.completion_tokens
            done.append(completion)
        return done

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


class Hostile(Overseer):
    """An overseer that does anything at random: asks without end, asks itself, gives up, says megabytes."""

    name = "hostile"

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    async def act(self, workspace: Workspace) -> Decision:
        return Decision(self._action(workspace))

    def _action(self, workspace: Workspace) -> Action:
        kind = self.rng.randrange(8)
        if kind < 5:
            texts = [self.rng.choice([workspace.question.text, str(self.rng.random()), "{{ x }}", "\x1b[2J" * 9])] * 2
            return Ask(tuple(SubQuestion(Question(text), self.rng.random() < 0.5) for text in texts))
        if kind == 5:
            return Look("nowhere")
        return Reply("y" * 100_000) if kind == 6 else GiveUp("no")


def episode(limits: Limits, seed: int) -> tuple[Episode, CountingSampler]:
    sampler = CountingSampler()
    agent = Agent("a", ModelRef("base"), "d")
    amplified = Amplified(Hostile(seed), agent, Dispatcher(sampler), limits)
    return asyncio.run(amplified.answer(Question("start"))), sampler


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3_000), st.integers(1, 5), st.integers(0, 10**6))
def test_no_overseer_gets_beyond_the_limits(calls: int, tokens: int, depth: int, seed: int) -> None:
    result, sampler = episode(Limits(calls=calls, tokens=tokens, depth=depth, steps=6), seed)
    assert sampler.calls <= calls
    assert sampler.tokens <= tokens
    assert result.cost.calls == sampler.calls
    assert result.cost.tokens == sampler.tokens
    assert result.answer.ok == (result.stop is StopReason.REPLIED)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_accounts_are_conserved_and_nothing_stays_reserved(seed: int) -> None:
    rng = random.Random(seed)
    root = Account.root(Limits(calls=rng.randint(1, 1_000), tokens=rng.randint(1, 10_000), depth=4))

    def use(account: Account) -> None:
        for _ in range(rng.randrange(4)):
            try:
                if rng.random() < 0.5:
                    calls, tokens = rng.randint(0, 20), rng.randint(0, 100)
                    account.reserve(calls, tokens)
                    account.settle(calls, tokens, rng.randint(0, calls), rng.randint(0, tokens))
                else:
                    for child in account.open_children(rng.randint(1, 4)):
                        use(child)
                        account.close_child(child)
            except OutOfBudget:
                assert account.calls_left >= 0
        assert account.calls_reserved == account.tokens_reserved == 0
        assert 0 <= account.calls_spent <= account.calls
        assert 0 <= account.tokens_spent <= account.tokens

    use(root)


def test_time_runs_out() -> None:
    with pytest.raises(OutOfBudget, match="seconds"):
        Account(1, 1, 1, deadline=0.0).check_time()


def test_depth_runs_out() -> None:
    with pytest.raises(OutOfBudget, match="depth"):
        Account(10, 10, 0, deadline=0.0).open_children(2)


@given(st.integers(1, 10**9))
def test_what_h_sees_of_the_budget_is_a_power_of_ten_below_it(number: int) -> None:
    assert rounded(number) <= number < 10 * rounded(number)
    assert set(str(rounded(number))) <= {"1", "0"}
