"""Long texts: exact through pieces, never read whole, honest where A is not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.messages import Messages
from amplification.overseer import NOT_UNDERSTOOD
from amplification.overseers.program import ProgramOverseer
from amplification.question import Message, Question
from amplification.replay import all_workspaces
from amplification.serving.base import ModelRef
from amplification.serving.programs import ProgramSampler, Unreliable
from amplification.serving.scripted import ScriptedSampler
from amplification.tasks import TASKS
from amplification.tasks.long_text import NOTHING, LongText, answer_in_place, made_up

ASKED = (
    "how often does apple occur in $1",
    "at which character does quince first occur in $1",
    "at which character does nobody first occur in $1",
    "which number in $1 is the largest",
    "which word in $1 is the longest",
)
AGENT = Agent("exact", ModelRef("none"), "0")
LIMITS = Limits(calls=20_000, tokens=10**8, workspace_chars=2_000)


def ask(
    text: str, asked: str, program: Callable[[str], str] = answer_in_place, piece_chars: int = 300, pieces: int = 8
) -> Episode:
    overseer = ProgramOverseer(TASKS, [LongText(piece_chars, pieces)])
    amplified = Amplified(overseer, AGENT, Dispatcher(ProgramSampler(program)), LIMITS)
    message = Message(text)
    return asyncio.run(amplified.answer(Question(asked, (message.digest,)), [message]))


@pytest.mark.parametrize("asked", ASKED)
def test_an_exact_agent_gives_exact_answers_about_a_text_that_no_workspace_holds(asked: str) -> None:
    text = made_up(60_000, seed=1)
    episode = ask(text, asked)
    assert episode.answer.text == LongText().truth(asked, text)
    shown = [workspace for workspace, _ in all_workspaces(episode.tree, Messages(episode.messages.values()))]
    assert max(workspace.characters() for workspace in shown) < 1_000
    leaves = [node for node in episode.tree.nodes() if node.by == "agent"]
    assert len(leaves) > 200
    assert max(episode.messages[leaf.question.pointers[0]].size for leaf in leaves) <= 300 + 200


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("ab1\u00e9 \n_.$"), max_size=600),
    st.sampled_from(["how often does a occur in $1", *(q.replace("quince", "b") for q in ASKED)]),
    st.integers(2, 5),
)
def test_any_text_in_pieces_of_any_number(text: str, asked: str, pieces: int) -> None:
    spaced = " ".join(text[n : n + 20] for n in range(0, len(text), 20))  # a place to cut is always near
    episode = ask(spaced, asked, piece_chars=40, pieces=pieces)
    if episode.answer.ok:
        assert episode.answer.text == LongText().truth(asked, spaced)
    else:
        assert "no place to cut" in str(episode.answer.failure)


def test_the_truth_of_a_known_text() -> None:
    task, text = LongText(), "pear 12 apple, apple-tree applet\n007 12345678901234567890 pear"
    assert task.truth("how often does apple occur in $1", text) == "2"
    assert task.truth("at which character does pear first occur in $1", text) == "0"
    assert task.truth("at which character does tree first occur in $1", text) == "21"
    assert task.truth("which number in $1 is the largest", text) == "12"
    assert task.truth("which word in $1 is the longest", "") == NOTHING
    with pytest.raises(ValueError, match="not a question"):
        task.truth("how many apples", text)


def test_a_piece_that_a_refuses_is_cut_up_further() -> None:
    def refuses_much(prompt: str) -> str:
        return answer_in_place(prompt) if len(prompt) < 220 else "I would rather not"

    text = made_up(3_000, seed=2)
    for asked in ASKED[:4]:
        assert ask(text, asked, refuses_much).answer.text == LongText().truth(asked, text)


def test_an_agent_that_never_says_anything_usable_ends_in_a_failure() -> None:
    for said in ("", "many", "-1", "9" * 30):
        episode = ask(made_up(2_000, seed=3), ASKED[0], lambda _, said=said: said)  # type: ignore[misc]
        assert not episode.answer.ok
        assert episode.answer.failure


def test_a_question_about_a_text_needs_its_text() -> None:
    sampler = ScriptedSampler()
    amplified = Amplified(ProgramOverseer(TASKS), AGENT, Dispatcher(sampler), LIMITS)
    assert asyncio.run(amplified.answer(Question(ASKED[0]))).answer.failure == NOT_UNDERSTOOD
    message = Message("3 7")
    about = Question("sum of $1", (message.digest,))
    assert asyncio.run(amplified.answer(about, [message])).answer.failure == NOT_UNDERSTOOD
    assert sampler.calls == []


def test_a_made_up_text_has_the_size_asked_for_and_depends_on_its_seed() -> None:
    assert len(made_up(12_345, 0)) == 12_345
    assert made_up(500, 0) == made_up(500, 0) != made_up(500, 1)


def test_errors_come_at_their_rate_and_the_same_call_gets_the_same_answer() -> None:
    def wrong(_: str, right: str, rng: random.Random) -> str:
        return str(int(right) + rng.randint(1, 9))

    sampler = Unreliable(ProgramSampler(lambda question: "5"), 0.2, wrong, seed=3)
    calls = [AGENT.call(f"q {n}", sample) for n in range(1_000) for sample in range(2)]
    first = sampler.sample(calls)
    assert first == list(reversed(sampler.sample(calls[::-1])))
    share = sum(completion.text != "5" for completion in first) / len(first)
    assert 0.15 < share < 0.25
    assert any(a.text != b.text for a, b in zip(first[::2], first[1::2], strict=True))
    assert Unreliable(sampler.sampler, 0.2, wrong, seed=4).sample(calls) != first
