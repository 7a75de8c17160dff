"""A person as H: one workspace at a time, mistakes told, nothing asked twice, nobody else kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.messages import Content
from amplification.overseers.decisions import Decisions
from amplification.overseers.human import HELP, HumanOverseer
from amplification.overseers.program import ProgramOverseer
from amplification.overseers.reading import ReadingOverseer
from amplification.question import Message, Question
from amplification.serving.base import ModelRef
from amplification.serving.scripted import ScriptedSampler
from amplification.store import Store
from amplification.tasks import TASKS
from amplification.workspace import Look

AGENT = Agent("A0", ModelRef("base"), "digest")


class Scripted:
    """A person who types these lines; checks that nobody else asks them meanwhile."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.shown, self.busy = list(lines), list[str](), False

    def show(self, text: str) -> None:
        self.shown.append(text)

    async def line(self, prompt: str) -> str:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0.001)
        self.busy = False
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    @property
    def workspaces(self) -> list[str]:
        return [text for text in self.shown if text.startswith("question: ")]


def asked(store: Store, person: Scripted, question: Question, known: Sequence[Content] = ()) -> Episode:
    human = HumanOverseer(person, Decisions(store, "human"), most_chars=50)
    sampler = ScriptedSampler(answers=lambda call: call.prompt.removesuffix(" :").upper())
    amplified = Amplified(human, AGENT, Dispatcher(sampler), Limits())
    return asyncio.run(amplified.answer(question, known))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "s.sqlite")


def test_a_mistake_costs_one_line_of_several(store: Store) -> None:
    person = Scripted("", "jump", "ask one", "look $1", "ask", "ask two", "", "reply " + "x" * 51, "reply done")
    episode = asked(store, person, Question("what"))
    assert [child.question.text for child in episode.tree.children] == ["one", "two"]
    assert episode.answer.text == "done"
    told = [text for text in person.shown if not text.startswith("question: ")]
    assert told[0] == HELP
    assert "'jump' is no action" in told[1]
    assert len(told) == 5 and "51 characters" in told[4]
    assert len(person.workspaces) == 2 and "answer: ONE" in person.workspaces[1]


def test_many_workspaces_queue_up_and_equal_ones_are_shown_once(store: Store) -> None:
    person = Scripted("recurse a", "recurse b", "recurse a", "", "reply 1", "reply 2", "reply 3")
    episode = asked(store, person, Question("what"))
    first, second, third = (child.answer.text for child in episode.tree.children)
    assert first == third != second
    assert len(person.workspaces) == 4
    assert person.lines == []


def test_whoever_leaves_is_not_asked_again_what_was_decided(store: Store) -> None:
    with pytest.raises(EOFError):
        asked(store, Scripted("ask one", ""), Question("what"))
    person = Scripted("reply fine")
    assert asked(store, person, Question("what")).answer.text == "fine"
    assert len(person.workspaces) == 1 and "answer: ONE" in person.workspaces[0]
    assert asked(store, Scripted(), Question("what")).answer.text == "fine"


def test_the_same_words_about_other_messages_are_another_workspace(store: Store) -> None:
    one, two = Message("red"), Message("sea")
    first = asked(store, Scripted("look $1", "reply $1 it is"), Question("see $1", (one.digest,)), [one])
    assert first.answer.pointers == (one.digest,)
    second = asked(store, Scripted("reply other"), Question("see $1", (two.digest,)), [two])
    assert second.answer.text == "other"
    again = asked(store, Scripted(), Question("see $1", (one.digest,)), [one])
    assert again.answer == first.answer


def test_others_go_on_while_a_person_thinks(store: Store) -> None:
    class Thinker(Scripted):
        async def line(self, prompt: str) -> str:
            await asyncio.wait_for(other_is_done.wait(), 30)
            return "reply at last"

    other_is_done = asyncio.Event()

    async def both() -> Episode:
        human = HumanOverseer(Thinker(), Decisions(store, "human"), 50)
        dispatcher = Dispatcher(ScriptedSampler(answers=lambda call: "1"))
        slow = asyncio.create_task(Amplified(human, AGENT, dispatcher, Limits()).answer(Question("what")))
        await Amplified(ProgramOverseer(TASKS), AGENT, dispatcher, Limits()).answer(Question("sum of 1 2"))
        other_is_done.set()
        return await slow

    assert asyncio.run(both()).answer.text == "at last"


def test_what_a_question_points_to_is_read_where_no_task_knows_pointers() -> None:
    numbers, long = Message("3 7\n2 8"), Message("1 " * 600)
    sampler = ScriptedSampler(answers=lambda call: TASKS["summing"].truth(call.prompt.removesuffix(" :")))
    amplified = Amplified(ReadingOverseer(ProgramOverseer(TASKS)), AGENT, Dispatcher(sampler), Limits())
    episode = asyncio.run(amplified.answer(Question("sum of $1", (numbers.digest,)), [numbers]))
    assert episode.answer.text == "20"
    assert [type(step.action) for step in episode.tree.steps or ()][:1] == [Look]
    plain = asyncio.run(amplified.answer(Question("sum of 3 7")))
    assert plain.answer.text == "10" and len(list(plain.tree.children)) == 2
    failed = asyncio.run(amplified.answer(Question("sum of $1", (long.digest,)), [long]))
    assert failed.answer.failure == "what $1 stands for is too long to be read at once"
