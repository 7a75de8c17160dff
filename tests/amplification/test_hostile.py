"""Whatever an overseer does and whenever it is interrupted: limits hold, accounts balance, the tree can be replayed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import MOST_DEPTH, Account, Limits
from amplification.corrections import Corrections
from amplification.dispatch import Dispatcher
from amplification.episode import Episode, StopReason
from amplification.errors import ServingError
from amplification.memo import Memo
from amplification.messages import Cut, Messages
from amplification.overseer import Decision, Overseer, Use
from amplification.question import Answer, Message, Question
from amplification.records import message_from, message_record, node_from, node_record
from amplification.replay import all_workspaces
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.store import Store
from amplification.voting import Voting
from amplification.workspace import Action, Ask, GiveUp, Look, Make, Reply, SubQuestion, Workspace

AGENT = Agent("a", ModelRef("base"), "d", SamplingParams(temperature=1.0))
TEXTS = (
    "1",
    "{{ 7 * 7 }}{% for x in y %}",
    "\x1b[2J\x00\u202e",
    "$1 and $2 and $99999",
    "long " * 300,
    "again",
    "\ud800",
)


class Greedy:
    """Answers at the highest cost that the bound allows, and sometimes with an error; counts what it used."""

    def __init__(self) -> None:
        self.calls = self.tokens = 0

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        return [self._complete(call) for call in calls]

    def _complete(self, call: Call) -> Completion:
        size = len(call.prompt.encode("utf-8", "surrogatepass"))
        self.calls += 1
        self.tokens += size + call.params.max_tokens
        error = "refused" if size % 7 == 0 else None
        return Completion(str((size + call.sample) % 5), size, call.params.max_tokens, logprob=-1.0, error=error)

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


class Slow(Greedy):
    """The same, a few at a time with pauses."""

    async def stream(self, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Completion]]]:
        for place, call in enumerate(calls):
            await asyncio.sleep(0.001)
            yield [(place, self._complete(call))]


class Hostile(Overseer):
    """Anything at all, at random; remembers every workspace that it was shown, and pointers to use where not given."""

    name = "hostile"

    def __init__(self, seed: int, calls: int = 0, raises: bool = False) -> None:
        self.rng, self.raises = random.Random(seed), raises
        self.most = Use(calls, 50 * calls)
        self.shown: list[Workspace] = []
        self.old: list[str] = ["0" * 32, "", "$1"]

    def bound(self, workspace: Workspace) -> Use:
        return self.most

    async def act(self, workspace: Workspace) -> Decision:
        self.shown.append(workspace)
        self.old += [pointer.digest for pointer in workspace.pointers]
        if self.raises and self.rng.random() < 0.02:
            raise ServingError("the overseer's model is gone")
        return Decision(self._action(workspace), used=Use(*(self.rng.randint(0, most) for most in self.most)))

    def _pointers(self, workspace: Workspace) -> tuple[str, ...]:
        given = [pointer.digest for pointer in workspace.pointers] + [workspace.question.digest]
        known = given[:-1] if self.rng.random() < 0.9 else given + self.old
        return tuple(self.rng.choice(known) for _ in range(self.rng.randrange(3))) if known else ()

    def _question(self, workspace: Workspace) -> Question:
        text = self.rng.choice([*TEXTS, workspace.question.text, str(self.rng.random())])
        return Question(text, self._pointers(workspace))

    def _action(self, workspace: Workspace) -> Action:
        kind, rng = self.rng.randrange(20), self.rng
        if kind < 9:
            many = rng.choice([0, 1, 1, 2, 2, 3, 5, 4_000]) if rng.random() < 0.2 else rng.randint(1, 3)
            return Ask(tuple(SubQuestion(self._question(workspace), rng.random() < 0.4) for _ in range(many)))
        pointers = self._pointers(workspace)
        if kind < 11:
            return Look(pointers[0] if pointers else "nowhere", rng.randint(-1, 3_000))
        if kind < 15:
            return Make(tuple(self._pieces(pointers) for _ in range(rng.randint(0 if kind == 11 else 1, 3))))
        if kind < 18:
            return Reply(rng.choice([*TEXTS, "y" * 3_000, "z" * 100_000]), pointers)
        return GiveUp(rng.choice(TEXTS))

    def _pieces(self, pointers: tuple[str, ...]) -> tuple[Cut | str, ...]:
        cuts = [Cut(p, self.rng.randint(-5, 2_000), self.rng.choice([None, 0, 500, 10**9])) for p in pointers]
        doubled = [Cut(p) for p in pointers for _ in range(2)]
        texts = [self.rng.choice(TEXTS), "w" * 5_000][: self.rng.randrange(3)]
        return tuple(self.rng.choice([cuts, doubled, [*cuts, *texts], texts]))


@contextmanager
def accounts_watched() -> Iterator[list[Account]]:
    """Every account that is opened inside; each is checked to be within its bounds at every reservation."""
    opened: list[Account] = []
    init, reserve, settle = Account.__init__, Account.reserve, Account.settle

    def check(account: Account) -> None:
        assert account.calls_reserved >= 0 and account.tokens_reserved >= 0
        assert 0 <= account.calls_spent + account.calls_reserved <= account.calls
        assert 0 <= account.tokens_spent + account.tokens_reserved <= account.tokens

    def watched_init(self: Account, *args: int | float) -> None:
        init(self, *args)  # type: ignore[arg-type]
        opened.append(self)

    def watched_reserve(self: Account, calls: int, tokens: int) -> None:
        reserve(self, calls, tokens)
        check(self)

    def watched_settle(self: Account, calls: int, tokens: int, calls_used: int, tokens_used: int) -> None:
        settle(self, calls, tokens, calls_used, tokens_used)
        check(self)

    patch = pytest.MonkeyPatch()
    patch.setattr(Account, "__init__", watched_init)
    patch.setattr(Account, "reserve", watched_reserve)
    patch.setattr(Account, "settle", watched_settle)
    try:
        yield opened
    finally:
        patch.undo()


def settled(accounts: Sequence[Account]) -> bool:
    return all(account.calls_reserved == account.tokens_reserved == 0 for account in accounts)


ROOTS = (Message("some words to read\n" * 400), Message("see $1", (Message("some words to read\n" * 400).digest,)))
QUESTION = Question("start with $1 and $2", tuple(message.digest for message in ROOTS))


def the_limits(seed: int) -> Limits:
    rng = random.Random(seed)
    calls, tokens = rng.choice([3, 30, 300]), rng.choice([100, 10_000, 10**6])
    chars, made = rng.choice([300, 4_000, 20_000]), rng.choice([100, 100_000])
    return Limits(calls=calls, tokens=tokens, depth=rng.randint(1, 4), steps=5, workspace_chars=chars, made_chars=made)


def an_amplified(hostile: Hostile, sampler: Greedy, limits: Limits, seed: int, memo: Memo | None = None) -> Amplified:
    rejecting = Corrections()
    if seed % 3 == 0:  # nothing that A can say to this is ever accepted
        for answer in range(5):
            rejecting = rejecting.rejecting(Question("1"), Answer(str(answer)))
    if seed % 5 == 0:
        rejecting = rejecting.editing(Question("again"), Question("1")).editing(Question("1"), Question("again"))
    voting = Voting(samples=((1,), (3, 1), (5,))[seed % 3], weights="probability" if seed % 2 else "majority")
    return Amplified(hostile, AGENT, Dispatcher(sampler, memo), limits, voting, rejecting, at_once=1 + seed % 4)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_whatever_the_overseer_does_the_limits_hold_and_the_tree_replays(seed: int, own_calls: int) -> None:
    hostile, sampler, limits = Hostile(seed, own_calls), Greedy(), the_limits(seed)
    with accounts_watched() as accounts:
        episode = asyncio.run(an_amplified(hostile, sampler, limits, seed).answer(QUESTION, ROOTS))
    assert settled(accounts)
    assert sampler.calls + episode.cost.overseer_calls <= limits.calls
    assert sampler.tokens + episode.cost.overseer_tokens <= limits.tokens
    assert (episode.cost.calls, episode.cost.tokens) == (sampler.calls, sampler.tokens)
    assert episode.answer.ok == (episode.stop is StopReason.REPLIED)
    assert episode.answer.ok or episode.answer.failure
    assert all(shown.characters() <= limits.workspace_chars for shown in hostile.shown)
    check_replay(episode, hostile.shown if seed % 3 and seed % 5 else None)


def check_replay(episode: Episode, shown: Sequence[Workspace] | None) -> None:
    """The tree survives JSON, and what it replays is what was shown (None where rejected tries left it)."""
    record = node_record(episode.tree)
    assert node_from(json.loads(json.dumps(record))) == episode.tree
    sources = dict(episode.messages.items())
    for digest, message in episode.messages.items():
        assert message_from(json.loads(json.dumps(message_record(message))), sources).digest == digest
    replayed = [workspace for workspace, _ in all_workspaces(episode.tree, Messages(episode.messages.values()))]
    if shown is not None:
        assert sorted(map(repr, replayed)) == sorted(map(repr, shown))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.06))
def test_cancelled_at_any_moment_everything_is_settled_and_goes_on(seed: int, after: float) -> None:
    async def run() -> None:
        sampler, memo = Slow(), Memo()
        amplified = an_amplified(Hostile(seed, seed % 2), sampler, the_limits(seed), 4, memo)
        task = asyncio.create_task(amplified.answer(QUESTION, ROOTS))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert settled(accounts)
        assert amplified.slots.free == amplified.at_once
        [(answer, _)] = await amplified.dispatcher.answers(AGENT, [Question("still there")])
        assert answer.ok or answer.failure
        assert len(asyncio.all_tasks()) == 1

    with accounts_watched() as accounts:
        asyncio.run(run())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.floats(0.001, 0.05))
def test_when_seconds_run_out_the_episode_says_so_and_the_store_is_whole(
    tmp_path: Path, seed: int, seconds: float
) -> None:
    limits = the_limits(seed).model_copy(update={"seconds": seconds})
    store = Store.at(tmp_path / f"{seed}-{seconds}.sqlite")

    async def run() -> Episode:
        amplified = an_amplified(Hostile(seed), Slow(), limits, 1, Memo(store, "one"))
        episode = await amplified.answer(QUESTION, ROOTS)
        assert amplified.slots.free == amplified.at_once
        await amplified.dispatcher.answers(AGENT, [Question("still there")])
        return episode

    with accounts_watched() as accounts:
        episode = asyncio.run(run())
    assert settled(accounts)
    assert episode.answer.ok == (episode.stop is StopReason.REPLIED)
    store.add_episodes("one", [episode])
    kept = Memo(store, "two")
    kept.load(AGENT.digest)
    assert kept.get((AGENT.digest, "still there :", AGENT.params.key(), 0))[1]
    pointers = {p for node in episode.tree.nodes() for p in (*node.question.pointers, *node.answer.pointers)}
    assert store.messages(pointers).keys() >= pointers
    store.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_an_overseer_whose_model_fails_leaves_nothing_behind(seed: int) -> None:
    async def run() -> None:
        amplified = an_amplified(Hostile(seed, 1, raises=True), Greedy(), the_limits(seed), seed)
        try:
            await amplified.answer(QUESTION, ROOTS)
        except ServingError as error:
            assert "overseer" in str(error)
        assert amplified.slots.free == amplified.at_once
        assert len(asyncio.all_tasks()) == 1

    with accounts_watched() as accounts:
        asyncio.run(run())
    assert settled(accounts)


def test_the_deepest_tree_that_limits_allow_is_answered_written_and_read(tmp_path: Path) -> None:
    class Deeper(Overseer):
        name = "deeper"

        async def act(self, workspace: Workspace) -> Decision:
            if workspace.exchanges:
                return Decision(Reply(f"{workspace.exchanges[0].answer.text}+"))
            more = workspace.left.depth > 0
            return Decision(Ask(tuple(SubQuestion(Question("1"), recurse=more) for _ in range(1 + (not more)))))

    limits = Limits(calls=10**12, tokens=10**12, depth=MOST_DEPTH)
    amplified = Amplified(Deeper(), AGENT, Dispatcher(Slow()), limits)
    episode = asyncio.run(amplified.answer(Question("start")))
    assert episode.answer.text.count("+") == MOST_DEPTH + 1
    check_replay(episode, None)
    store = Store.at(tmp_path / "s.sqlite")
    store.add_episodes("deep", [episode])
    store.close()
