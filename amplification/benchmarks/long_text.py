"""Questions about a text of a million characters, through workspaces of two thousand: exactness and cost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.benchmarks.base import Measured, Settings
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.overseer import Decision
from amplification.overseers.program import ProgramOverseer
from amplification.question import Message, Question
from amplification.serving.base import Call, Completion, ModelRef, Sampler
from amplification.serving.programs import ProgramSampler, Unreliable
from amplification.tasks.long_text import NOTHING, LongText, answer_in_place, made_up
from amplification.voting import Voting
from amplification.workspace import Workspace

CHARACTERS, PIECE_CHARS = 1_000_000, 400
LIMITS = Limits(calls=100_000, tokens=10**9, workspace_chars=2_000, seconds=3_600)
AGENT = Agent("program", ModelRef("none"), "0")
ERROR_RATE, VOTES = 0.01, (1, 3, 5)

COUNT = "how often does apple occur in $1"
ASKED = (
    COUNT,
    "at which character does needle first occur in $1",
    "at which character does nobody first occur in $1",
    "which number in $1 is the largest",
    "which word in $1 is the longest",
)


@dataclass(frozen=True)
class OneQuestion:
    """One episode. Sizes in characters; `seconds` is wall time, `processor_seconds` that of this process."""

    question: str
    answer: str
    exact: bool
    calls: int
    memo_hits: int
    tokens: int
    workspaces: int
    largest_workspace: int
    largest_prompt: int
    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Imperfect:
    """The counting question asked of an A that miscounts a share of the pieces by 1 to 3."""

    error_rate: float
    votes: int
    truth: int
    answer: int
    calls: int


@dataclass(frozen=True)
class LongTextMeasured(Measured):
    """`exact` of `questions` were answered exactly by an A that makes no mistakes about a piece."""

    characters: int
    exact: int
    questions: int
    episodes: tuple[OneQuestion, ...]
    imperfect: tuple[Imperfect, ...]

    def as_line(self) -> str:
        lines = [f"{self.exact} of {self.questions} exact about {self.characters} characters"]
        lines += [
            f"  {e.question}: {e.answer}; {e.calls} calls, {e.memo_hits} memo hits, {e.tokens} tokens, {e.workspaces} "
            f"workspaces of at most {e.largest_workspace} characters, prompts of at most {e.largest_prompt}; "
            f"{e.seconds:.1f} s ({e.processor_seconds:.1f} s of processor time)"
            for e in self.episodes
        ]
        lines += [
            f"  {i.error_rate:.0%} of A's answers wrong, {i.votes} votes: {i.answer} for {i.truth}, {i.calls} calls"
            for i in self.imperfect
        ]
        return "\n".join(lines)


class _Watching(ProgramOverseer):
    """The program overseer; notes how many workspaces it was shown and how large they were."""

    def __init__(self) -> None:
        super().__init__({}, [LongText(PIECE_CHARS)])
        self.most = 0

    async def act(self, workspace: Workspace) -> Decision:
        self.most = max(self.most, workspace.characters())
        return await super().act(workspace)


class _Noting:
    """A sampler in front of another; notes the largest prompt."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.most = sampler, 0
        self.parameters, self.close = sampler.parameters, sampler.close

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        self.most = max(self.most, *(len(call.prompt) for call in calls))
        return self.sampler.sample(calls)


def long_text(settings: Settings) -> LongTextMeasured:
    """Ask `ASKED` of a text of a million characters, then one of them with errors injected and votes against them."""
    del settings  # nothing of it applies: the figures are exact but for the seconds
    text = made_up(CHARACTERS // 3 * 2, seed=0) + " needle " + made_up(CHARACTERS, seed=1)
    text = text[:CHARACTERS]
    episodes = tuple(_measured(asked, text) for asked in ASKED)
    imperfect = tuple(_with_errors(votes, text) for votes in VOTES)
    return LongTextMeasured(len(text), sum(e.exact for e in episodes), len(episodes), episodes, imperfect)


def _measured(asked: str, text: str) -> OneQuestion:
    overseer, sampler = _Watching(), _Noting(ProgramSampler(answer_in_place))
    started, processor = time.perf_counter(), time.process_time()
    episode = _episode(asked, text, Amplified(overseer, AGENT, Dispatcher(sampler), LIMITS))
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor
    return OneQuestion(
        asked,
        episode.answer.shown(),
        episode.answer.text == LongText().truth(asked, text),
        episode.cost.calls,
        episode.cost.memo_hits,
        episode.cost.tokens,
        episode.cost.overseer_steps,
        overseer.most,
        sampler.most,
        round(seconds, 2),
        round(processor_seconds, 2),
    )


def _with_errors(votes: int, text: str) -> Imperfect:
    sampler = Unreliable(ProgramSampler(answer_in_place), ERROR_RATE, _miscounted, seed=0)
    voting = Voting(samples=(votes,))
    episode = _episode(COUNT, text, Amplified(_Watching(), AGENT, Dispatcher(sampler), LIMITS, voting))
    truth = int(LongText().truth(COUNT, text))
    return Imperfect(ERROR_RATE, votes, truth, int(episode.answer.text or "-1"), episode.cost.calls)


def _miscounted(_: str, right: str, rng: random.Random) -> str:
    return right if right == NOTHING else str(int(right) + rng.randint(1, 3))


def _episode(asked: str, text: str, amplified: Amplified) -> Episode:
    message = Message(text)
    return asyncio.run(amplified.answer(Question(asked, (message.digest,)), [message]))
