"""The embedded tasks: strict parsers, right truths, disjoint splits, and a program overseer that is right."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplification.errors import InputError
from amplification.question import Answer, Question
from amplification.tasks import TASKS, task, task_of, vocabulary
from amplification.tasks.base import FACT, NONSENSE, Task, questions, split_of
from amplification.workspace import Action, Ask, Exchange, GiveUp, Reply, SubQuestion, Workspace

CELLS = [(name, level) for name, t in TASKS.items() for level in t.levels]
cells = pytest.mark.parametrize(("name", "level"), CELLS)


def sampled(name: str, level: int, count: int = 60) -> list[str]:
    rng = random.Random(f"{name}/{level}")
    return [task(name).sample(level, rng) for _ in range(count)]


def by_overseer(t: Task, text: str, right: bool = True) -> Answer:
    """The program overseer alone: each sub-question goes to a fresh workspace, or straight to the truth."""
    exchanges: list[Exchange] = []
    for _ in range(4):
        action = t.act(Workspace(Question(text), tuple(exchanges)))
        if isinstance(action, Reply):
            return Answer(action.text)
        if isinstance(action, GiveUp):
            return Answer.failed(action.reason)
        assert isinstance(action, Ask)
        for sub in action.subs:
            answer = by_overseer(t, sub.question.text) if sub.recurse else Answer(t.truth(sub.question.text))
            exchanges.append(Exchange(sub.question, answer if right else Answer(NONSENSE)))
    raise AssertionError(f"no reply to {text}")


@cells
def test_a_sampled_question_is_understood_by_its_task_alone(name: str, level: int) -> None:
    for text in sampled(name, level):
        assert [t.name for t in TASKS.values() if t.level_of(text) is not None] == [name]
        assert task(name).level_of(text) == level
        assert task_of(text) is task(name)


@cells
def test_truth_has_the_right_form_and_is_in_the_vocabulary(name: str, level: int) -> None:
    words = set(vocabulary())
    for text in sampled(name, level):
        valid = task(name).valid_answers(text)
        assert task(name).truth(text) in valid
        assert NONSENSE not in valid
        assert words.issuperset([*text.split(), *valid])


@cells
def test_overseer_is_right_when_its_sub_answers_are(name: str, level: int) -> None:
    for text in sampled(name, level):
        assert by_overseer(task(name), text) == Answer(task(name).truth(text))


@cells
def test_split_is_disjoint_on_keys_and_both_sides_exist(name: str, level: int) -> None:
    t = task(name)
    sides = {s: list(itertools.islice(questions(t, level, s, seed=1), 150)) for s in ("train", "held_out")}
    keys = {s: {t.split_key(text) for text in texts} for s, texts in sides.items()}
    assert keys["train"]
    assert keys["held_out"] or keys["train"] == {FACT}
    assert not keys["train"] & keys["held_out"]
    assert all(split_of(t, text) == s for s, texts in sides.items() for text in texts)


@pytest.mark.parametrize(("name", "level"), [("counting", 1), ("summing", 1), ("summing", 2)])
def test_every_fact_has_a_wording_in_training(name: str, level: int) -> None:
    t = task(name)

    def fact(text: str) -> tuple[str, ...]:
        return tuple(sorted(w for w in text.split() if w in {"even", "odd", "small", "large", *"0123456789"}))

    known = {fact(text) for text in questions(t, level, "train", seed=1)}
    assert {fact(text) for text in questions(t, level, "held_out", seed=1)} <= known


def test_the_bare_literals_are_in_training() -> None:
    assert {split_of(task("boolean"), text) for text in ("True is", "False is")} == {"train"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("how many of 3 7 2 are even", "number of even digits among 3 7 2"),
        ("sum of 9 1 4", "add up 9 1 4"),
        ("apply 0>2 1>0 2>3 3>1 to 1 for 4 steps", "given 0>2 1>0 2>3 3>1 take 4 steps from 1"),
    ],
)
def test_rewordings_of_one_problem_share_a_key(one: str, other: str) -> None:
    t = task_of(one)
    assert t is not None
    assert t.split_key(one) == t.split_key(other)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("how many of 3 7 2 8 are even", "2"),
        ("count the large numbers in 5", "1"),
        ("number of small digits among 4 5 0", "2"),
        ("sum of 3 7 2 8", "20"),
        ("total of 9 9 9 9 9 9 9 9", "72"),
        ("apply 0>2 1>0 2>3 3>1 to 1 for 4 steps", "1"),
        ("apply 1>2 0>1 2>0 3>3 to 0 for 8 steps", "2"),
        ("given 3>0 0>3 1>1 2>2 take 1 steps from 3", "0"),
        ("not ( True ) and ( True ) is", "False"),
        ("True or True and False is", "True"),
        ("not False and False is", "False"),
        ("not ( False and False ) is", "True"),
        ("not not not True is", "False"),
    ],
)
def test_known_answers(text: str, answer: str) -> None:
    t = task_of(text)
    assert t is not None
    assert t.truth(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "how many of are even",
        "how many of 3 7 are",
        "how many of 3 7 are prime",
        "how many of 3 12 are even",
        "how many of 3 ² are even",
        "count the even numbers in 3 7 please",
        "sum of",
        "sum of 3 x",
        "SUM of 3",
        "apply 0>2 1>0 2>3 to 1 for 4 steps",
        "apply 0>2 0>1 2>3 3>0 to 1 for 4 steps",
        "apply 0>2 1>2 2>3 3>1 to 1 for 4 steps",
        "apply 0>2 1>0 2>3 3>1 3>1 to 1 for 4 steps",
        "apply 0>2 1>0 2>3 3>1 to 4 for 4 steps",
        "apply 0>2 1>0 2>3 3>1 to 1 for 0 steps",
        "apply 0>2 1>0 2>3 3>1 to 1 for 03 steps",
        "is",
        "True",
        "True False is",
        "( True is",
        "True ) is",
        "( ) is",
        "and True is",
        "True and or False is",
        "not is",
        "not " * 5_000 + "True is",
        "( " * 5_000 + "True" + " )" * 5_000 + " is",
    ],
)
def test_what_deviates_makes_no_sense(text: str) -> None:
    assert task_of(text) is None
    for t in TASKS.values():
        with pytest.raises(ValueError, match="not a question of"):
            t.truth(text)
        assert isinstance(t.act(Workspace(Question(text))), GiveUp)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.lists(st.sampled_from(["True", "False", "and", "or", "not", "(", ")"]), max_size=8), st.integers(0, 10_000))
def test_boolean_truth_agrees_with_python(noise: list[str], seed: int) -> None:
    """Python's own parser is the oracle, on good expressions and on garbage."""
    rng = random.Random(seed)
    good = task("boolean").sample(rng.choice((1, 2, 4, 8)), rng).removesuffix(" is")
    for text in (good, " ".join(noise)):
        try:
            value: str | None = str(eval(text))
        except (SyntaxError, TypeError):
            value = None
        understood = task("boolean").level_of(f"{text} is") is not None
        # `True ( False )` and `( )` are Python, but not boolean expressions.
        assert understood <= (value is not None)
        if understood:
            assert task("boolean").truth(f"{text} is") == value
        assert understood or text != good


def first_step(text: str) -> tuple[SubQuestion, ...]:
    t = task_of(text)
    assert t is not None
    action: Action = t.act(Workspace(Question(text)))
    assert isinstance(action, Ask)
    return action.subs


@pytest.mark.parametrize(
    ("text", "subs"),
    [
        ("sum of 1 2 3 4", [("sum of 1 2", False), ("sum of 3 4", False)]),
        ("sum of 1 2 3 4 5 6", [("sum of 1 2 3", True), ("sum of 4 5 6", True)]),
        ("how many of 1 2 3 are odd", [("how many of 1 2 are odd", False), ("how many of 3 are odd", False)]),
        ("apply 0>2 1>0 2>3 3>1 to 1 for 8 steps", [("apply 0>2 1>0 2>3 3>1 to 1 for 4 steps", False)]),
        ("True or False and True or False is", [("True is", False), ("False and True or False is", True)]),
        ("not ( ( True and False ) ) is", [("True is", False), ("False is", False)]),
        ("not ( True or not False ) and True is", [("True or not False is", False), ("True is", False)]),
    ],
)
def test_halves_and_whom_they_go_to(text: str, subs: list[tuple[str, bool]]) -> None:
    assert [(sub.question.text, sub.recurse) for sub in first_step(text)] == subs


@pytest.mark.parametrize(
    "bad", [Answer(NONSENSE), Answer("True"), Answer("99"), Answer(""), Answer.failed("out of budget")]
)
@pytest.mark.parametrize("text", ["sum of 1 2", "how many of 1 2 are odd", "apply 0>2 1>0 2>3 3>1 to 1 for 2 steps"])
def test_an_unusable_sub_answer_is_asked_of_a_new_h_and_then_given_up_on(text: str, bad: Answer) -> None:
    t = task_of(text)
    assert t is not None
    asked = first_step(text)
    exchanges = tuple(Exchange(sub.question, bad) for sub in asked)
    again = t.act(Workspace(Question(text), exchanges))
    assert isinstance(again, Ask)
    assert [(sub.question, sub.recurse) for sub in again.subs] == [(sub.question, True) for sub in asked]
    action = t.act(Workspace(Question(text), exchanges * 2))
    assert isinstance(action, GiveUp)
    assert exchanges[0].question.text in action.reason


def test_a_wrong_but_well_formed_sub_answer_is_built_upon() -> None:
    """H cannot see the truth: what A says, if it has the right form, goes into the answer."""
    exchanges = tuple(Exchange(sub.question, Answer("9")) for sub in first_step("sum of 1 2"))
    assert task("summing").act(Workspace(Question("sum of 1 2"), exchanges)) == Reply("18")


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="counting, summing, permutation, boolean"):
        task("chess")
