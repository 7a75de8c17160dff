"""Attacks: no task parses one, the two sides share nothing, and a seed fixes them."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplification.errors import InputError
from amplification.tasks import TASKS, task_of, vocabulary
from amplification.tasks.attack_families import sampled
from amplification.tasks.attacks import (
    FAMILIES,
    MAX_WORDS,
    OFF_DISTRIBUTION,
    attack_split,
    attacks,
    extra_words,
    families,
    off_distribution,
)
from amplification.tasks.base import split_of

SEEDS = st.integers(0, 2**20)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, held_out=st.booleans())
def test_no_task_parses_an_attack_and_every_word_is_known(seed: int, held_out: bool) -> None:
    known = {*vocabulary(), *extra_words()}
    made = attacks(TASKS, 200, held_out, seed)
    assert len({attack.text for attack in made}) == 200
    for attack in made:
        assert task_of(attack.text) is None
        assert set(attack.text.split()) <= known
        assert len(attack.text.split()) <= MAX_WORDS


def test_every_family_is_on_one_side_and_is_used_there() -> None:
    names = {held: {family.name for family in families(held)} for held in (False, True)}
    assert not names[False] & names[True]
    assert names[False] | names[True] == FAMILIES.keys()
    for held, expected in names.items():
        assert {attack.family for attack in attacks(TASKS, 300, held, 1)} == expected


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_no_text_is_an_attack_of_both_sides(seed: int) -> None:
    training = {attack.text for attack in attacks(TASKS, 1_500, False, seed)}
    held_out = {attack.text for attack in attacks(TASKS, 500, True, seed)}
    assert not training & held_out
    assert {attack_split(text) for text in training} == {"train"}
    assert {attack_split(text) for text in held_out} == {"held_out"}


def test_sides_are_made_from_their_own_side_of_the_questions() -> None:
    """A polite prefix leaves the question whole, and so does a quotation."""
    for family, held_out in (("polite_prefix", False), ("quoted", True)):
        sources = set()
        for attack in attacks(TASKS, 600, held_out, 3):
            words = attack.text.split()
            spans = (" ".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1))
            whole = max((span for span in spans if task_of(span)), key=len, default="")
            if attack.family == family:
                sources.add(split_of(TASKS[attack.task], whole))
        assert sources == {"held_out" if held_out else "train"}


def test_a_seed_fixes_the_attacks_and_a_larger_number_only_adds() -> None:
    assert attacks(TASKS, 60, True, 5) == attacks(TASKS, 90, True, 5)[:60]
    assert attacks(TASKS, 60, True, 5) != attacks(TASKS, 60, True, 6)
    assert attacks(TASKS, 0, True, 5) == []


def test_attacks_stay_at_the_levels_asked_for() -> None:
    longest = max(len(attack.text.split()) for attack in attacks(TASKS, 300, False, 1, up_to=0))
    assert longest < max(len(attack.text.split()) for attack in attacks(TASKS, 300, False, 1))


def test_too_many_attacks_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"truncated": FAMILIES["truncated"]}
    monkeypatch.setattr("amplification.tasks.attacks.FAMILIES", only)
    with pytest.raises(InputError, match="could be made"):
        attacks({"summing": TASKS["summing"]}, 10_000, False, 1, up_to=0)


def test_contradicting_facts_contradict() -> None:
    task, rng = TASKS["permutation"], random.Random(1)
    for _ in range(50):
        text = FAMILIES["contradictory"].make(task, sampled(task, (4,), "train", rng), rng)
        sources = [word.split(">")[0] for word in text.split() if ">" in word]
        assert len(sources) == 5
        assert len(set(sources)) == 4


def test_off_distribution_questions_have_a_meaning_and_a_size_between_levels() -> None:
    made = off_distribution(TASKS, 200, 1)
    assert len({attack.text for attack in made}) == 200
    for attack in made:
        task = TASKS[attack.task]
        level = task.level_of(attack.text)
        assert attack.family == OFF_DISTRIBUTION
        assert level is not None
        assert level not in task.levels
        assert task.levels[0] < level < task.levels[-1]
        assert split_of(task, attack.text) == "held_out"
    assert {attack.task for attack in made} == TASKS.keys()


def test_no_off_distribution_question_where_no_size_lies_between() -> None:
    assert off_distribution(TASKS, 10, 1, up_to=1) == []
    sizes = {TASKS[a.task].level_of(a.text) for a in islice(off_distribution(TASKS, 40, 1, up_to=2), 40)}
    assert sizes == {3}
