"""After a correction exactly what it changed is asked again; the memo answers the rest, in any later process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.asking.memo import ReadThroughMemo
from amplification.asking.outline import Outline
from amplification.asking.session import Session
from amplification.budget import Limits
from amplification.corrections import Corrections
from amplification.dispatch import Dispatcher
from amplification.episode import Episode
from amplification.memo import Memo
from amplification.overseers.program import ProgramOverseer
from amplification.question import Question
from amplification.serving.base import Call, Completion, ModelRef
from amplification.store import Store, memo_table
from amplification.tasks import TASKS, task_of

AGENT = Agent("A0", ModelRef("base"), "digest")


class Model:
    """Says the truth at the first draw, or what it is told; another valid answer at each later one."""

    def __init__(self, wrong: dict[str, str] | None = None) -> None:
        self.wrong = wrong or {}
        self.asked: list[tuple[str, int]] = []

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        self.asked += [(call.prompt.removesuffix(" :"), call.sample) for call in calls]
        return [Completion(self._said(call.prompt.removesuffix(" :"), call.sample), 3, 1) for call in calls]

    def _said(self, text: str, sample: int) -> str:
        task = task_of(text)
        assert task is not None
        if sample == 0:
            return self.wrong.get(text, task.truth(text))
        valid = task.valid_answers(text)
        return valid[(valid.index(task.truth(text)) + sample // 1_000) % len(valid)]

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


def answered(path: Path, model: Model, text: str, corrections: Corrections) -> Episode:
    """One answer as a new process would give it: store and memo are opened again."""
    store = Store.at(path)
    try:
        dispatcher = Dispatcher(model, ReadThroughMemo(store))
        overseer = ProgramOverseer(TASKS)
        amplified = Amplified(overseer, AGENT, dispatcher, Limits(), corrections=corrections)
        return asyncio.run(amplified.answer(corrections.asked(Question(text))))
    finally:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "ask.sqlite"


def test_asked_again_without_a_correction_costs_nothing(store: Path) -> None:
    model = Model()
    first = answered(store, model, "sum of 1 2 3 4 5 6 7 8", Corrections())
    before = list(model.asked)
    again = answered(store, model, "sum of 1 2 3 4 5 6 7 8", Corrections())
    assert model.asked == before
    assert (again.cost.calls, again.cost.tokens) == (0, 0)
    assert (again.cost.memo_hits, again.cost.tokens_saved) == (first.cost.calls, first.cost.tokens)


def test_after_a_reject_the_question_alone_is_asked_again(store: Path) -> None:
    model = Model(wrong={"sum of 1 2 3 4": "11"})
    first = answered(store, model, "sum of 1 2 3 4 5 6 7 8", Corrections())
    assert first.answer.text == "37"
    [node] = [node for node in first.tree.nodes() if node.question.text == "sum of 1 2 3 4"]
    asked = len(model.asked)
    second = answered(store, model, "sum of 1 2 3 4 5 6 7 8", Corrections().rejecting(node.question, node.answer))
    # The second draw says 11 too, so that a third is taken; its answer is what H goes on with.
    assert model.asked[asked:] == [("sum of 1 2 3 4", 1_000), ("sum of 1 2 3 4", 2_000)]
    assert (second.cost.calls, second.cost.memo_hits) == (2, 2)
    assert second.answer.text == str(12 + 26)


def test_what_depends_on_a_rejected_answer_is_asked_again_too(store: Path) -> None:
    task, text = TASKS["permutation"], ""
    rng = random.Random(0)
    text = task.sample(4, rng)
    model = Model()
    first = answered(store, model, text, Corrections())
    children = list(first.tree.children)
    assert len(children) == 2  # sigma^2 of x, then sigma^2 of what came back
    asked = len(model.asked)
    second = answered(store, model, text, Corrections().rejecting(children[0].question, children[0].answer))
    other = list(second.tree.children)
    assert other[0].question == children[0].question and other[0].answer != children[0].answer
    assert other[1].question != children[1].question
    fresh = [question for question, _ in model.asked[asked:]]
    assert set(fresh) <= {children[0].question.text, other[1].question.text}
    assert fresh.count(other[1].question.text) == 1
    assert second.cost.calls == len(fresh)


def test_after_an_edit_only_the_new_question_is_asked(store: Path) -> None:
    model = Model()
    first = answered(store, model, "sum of 1 2 3 4 5 6 7 8", Corrections())
    [node] = [node for node in first.tree.nodes() if node.question.text == "sum of 5 6 7 8"]
    asked = len(model.asked)
    corrections = Corrections().editing(node.question, Question("sum of 5 6 7 9"))
    second = answered(store, model, "sum of 1 2 3 4 5 6 7 8", corrections)
    assert model.asked[asked:] == [("sum of 5 6 7 9", 0)]
    assert (second.cost.calls, second.cost.memo_hits) == (1, 1)
    assert second.answer.text == "37"
    [changed] = [node for node in second.tree.nodes() if node.asked is not None]
    assert (changed.asked, changed.question.text) == (node.question, "sum of 5 6 7 9")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 10_000), data=st.data())
def test_whatever_is_corrected_nothing_is_asked_twice(
    name: str, seed: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, rng = tmp_path_factory.mktemp("stores") / "ask.sqlite", random.Random(seed)
    task = TASKS[name]
    text, model, corrections = task.sample(task.levels[-1], rng), Model(), Corrections()
    for _ in range(3):
        before = len(model.asked)
        episode = answered(store, model, text, corrections)
        assert episode.cost.calls == len(model.asked) - before
        outline = Outline(episode.tree)
        node = outline[data.draw(st.integers(1, len(outline)))]
        if node.answer.ok and data.draw(st.booleans()):
            corrections = corrections.rejecting(node.question, node.answer)
        else:
            corrections = corrections.editing(node.asked or node.question, Question(task.sample(1, rng)))
        assert all(
            not corrections.rejects(n.question, n.answer)
            for n in answered(store, model, text, corrections).tree.nodes()
        )
    assert len(set(model.asked)) == len(model.asked)


def test_a_run_is_read_through_and_never_written(tmp_path: Path) -> None:
    run, own, model = Store.at(tmp_path / "run.sqlite"), Store.at(tmp_path / "ask.sqlite"), Model()

    def ask(memo: Memo, text: str) -> Episode:
        amplified = Amplified(ProgramOverseer(TASKS), AGENT, Dispatcher(model, memo), Limits())
        return asyncio.run(amplified.answer(Question(text)))

    ask(Memo(run, "labels"), "sum of 3 7")
    known = list(run.memo_rows(AGENT.digest))
    mixed = ask(ReadThroughMemo(own, (run,)), "sum of 3 7 2 8")
    assert (mixed.cost.calls, mixed.cost.memo_hits) == (2, 0)
    again = ask(ReadThroughMemo(own, (run,)), "sum of 3 7")
    assert (again.cost.calls, again.cost.memo_hits) == (0, 2)
    assert list(run.memo_rows(AGENT.digest)) == known
    with own.engine.connect() as connection:
        prompts = set(connection.execute(memo_table.select()).scalars())
    assert len(list(own.memo_rows(AGENT.digest))) == 2, prompts


def test_a_sessions_corrections_outlive_it(tmp_path: Path) -> None:
    q0, q1 = Question("sum of 1 2"), Question("sum of $1", ("0" * 32,))
    first = Session(Store.at(tmp_path / "ask.sqlite"), "mine")
    first.edit(q0, "sum of 2 2")
    first.edit(q1, "sum of $1 and $1")
    second = Session(Store.at(tmp_path / "ask.sqlite"), "mine")
    assert second.corrections().asked(q0) == Question("sum of 2 2")
    assert second.corrections().asked(q1) == Question("sum of $1 and $1", q1.pointers)
    second.edit(q0, "sum of 3 3")  # takes the place of the first
    assert first.corrections().asked(q0) == Question("sum of 3 3")
    second.edit(q0, q0.text)  # back to what it was
    assert first.corrections().asked(q0) == q0
    undone = second.undo()
    assert undone is not None and undone.text == q0.text
    assert first.corrections().asked(q0) == Question("sum of 3 3")
    assert Session(Store.at(tmp_path / "ask.sqlite"), "other").corrections() == Corrections()
