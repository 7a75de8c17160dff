"""Trees of answers: what is shared stands once, and everything is found again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.tree import ROOM, answered, ends_of, rows_of, states_of, tree_of

ANSWERS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8)


def behind(tokens: list[int], parents: list[int], state: int) -> list[int]:
    """The tokens from the prompt up to a state."""
    found: list[int] = []
    node = state - 1
    while node >= 0:
        found.append(tokens[node])
        node = parents[node]
    return found[::-1]


@given(ANSWERS)
def test_the_states_of_an_answer_are_its_beginnings(answers: list[list[int]]) -> None:
    tree = tree_of(answers)
    for answer, states in zip(answers, tree.states, strict=True):
        for end, state in enumerate(states):
            assert behind(tree.tokens, tree.parents, state) == answer[:end]
    beginnings = {tuple(answer[:end]) for answer in answers for end in range(1, len(answer))}
    assert len(tree.tokens) == len(beginnings)


@given(st.lists(st.tuples(st.lists(st.integers(3, 4), min_size=1, max_size=3), ANSWERS), min_size=1, max_size=4))
def test_a_token_sees_what_it_stands_behind_and_nothing_else(given_: list[tuple[list[int], list[list[int]]]]) -> None:
    prompts, trees = [prompt for prompt, _ in given_], [tree_of(answers, whole=True) for _, answers in given_]
    rows = rows_of(prompts, trees, pad=9)
    places = iter(rows.states.tolist())
    for prompt, tree in zip(prompts, trees, strict=True):
        for state in range(1 + len(tree.tokens)):
            row, place = divmod(next(places), rows.ids.shape[1])
            expected = [*prompt, *behind(tree.tokens, tree.parents, state)]
            sees = rows.extra["attention_mask"][row, 0, place]
            assert int(rows.extra["position_ids"][row, place]) == len(expected) - 1
            assert rows.ids[row][sees].tolist() == expected
    assert not list(places)
    assert rows.extra["attention_mask"].any(-1).all()  # attention to nothing is no number


def test_each_answer_is_predicted_from_its_own_beginnings() -> None:
    trees = [tree_of([[5, 1], [6, 1]]), tree_of([[7]])]
    places = torch.tensor([[1, 0, 1], [0, 0, 0]])
    # The first prompt's states are 0 to 2, the second's one is 3.
    assert states_of(trees, places, 2).tolist() == [[[0, 2], [0, 1], [0, 2]], [[3, 3]] * 3]


def test_answers_are_put_together_by_prompt() -> None:
    found = answered([[1, 2], [3], [1, 2], [1, 2]], [[5, 9], [5, 9], [6, 9], [5, 9]])
    assert found.prompts == [(1, 2), (3,)]
    assert found.owners == [0, 1, 0, 0]
    assert found.tokens() == 2 + 4 + 1 + 2  # the prompts, and two answers and one of two tokens
    assert found.places == [0, 0, 1, 0]
    assert ends_of(found.trees) == [[2, 4], [7]]  # behind two states and two; the second prompt's first state is 5


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30))
def test_short_prompts_share_rows_and_long_ones_are_not_cut(lengths: list[int]) -> None:
    rows = rows_of([[1] * length for length in lengths], [tree_of([[5]])] * len(lengths), pad=0)
    assert (rows.ids == 1).sum() == sum(lengths)
    full = (rows.ids == 1).sum(1)
    assert full.min() > 0 and full.max() - full.min() <= max(lengths)
    assert len(full) == -(-sum(lengths) // max(ROOM, *lengths))
