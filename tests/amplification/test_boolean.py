"""How dense the boolean task's short expressions are."""

from itertools import islice

from amplification.tasks import task
from amplification.tasks.base import questions


def test_short_expressions_have_at_most_four_nots_and_brackets() -> None:
    for text in islice(questions(task("boolean"), 2, "train", seed=1), 300):
        assert text.count("not") + text.count("(") <= 4


def test_there_are_enough_short_expressions_to_learn_from() -> None:
    assert len(list(questions(task("boolean"), 2, "train", seed=1))) > 500
