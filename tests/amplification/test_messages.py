"""Messages: pieces that adjoin give the text again, equal texts are one message, nothing is longer than it may be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplification.messages import SEARCH_CHARS, Cut, Excerpt, Messages, TooLong
from amplification.question import Answer, Message, Question, digest, with_pointers

ALPHABET = st.sampled_from("ab \n\t$1é\u2028")
TEXTS = st.one_of(st.text(ALPHABET, max_size=300), st.text(st.sampled_from("ab"), min_size=1, max_size=900))


@given(TEXTS, st.lists(st.integers(-10, 1_000), max_size=6))
def test_pieces_between_neighbouring_cuts_joined_give_the_text(text: str, places: list[int]) -> None:
    messages = Messages([Message(text)])
    [whole] = messages.all
    bounds = [0, *sorted(places), None]
    cuts = [Cut(whole, start or 0, stop) for start, stop in pairwise(bounds)]
    pieces = [messages.made([cut], 10**6) for cut in cuts]
    assert "".join(piece.text for piece in pieces) == text
    for piece in pieces[1:]:  # a cut is at an end, at white space, or where none is near
        assert isinstance(piece, Excerpt)
        at = piece.start
        assert at in (0, len(text)) or text[at].isspace() or not any(map(str.isspace, text[at : at + SEARCH_CHARS]))


@given(TEXTS, st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_a_cut_of_a_cut_is_that_part_of_the_text(text: str, a: int, b: int, c: int, d: int) -> None:
    messages = Messages([Message(text)])
    [whole] = messages.all
    first = messages.made([Cut(whole, min(a, b), max(a, b))], 0)
    second = messages.made([Cut(messages.add(first), min(c, d), max(c, d))], 0)
    assert isinstance(second, Excerpt) and second.source is messages[whole]
    assert second.text in first.text
    assert first.text in text


@given(TEXTS, st.integers(0, 400))
def test_equal_texts_have_one_digest_however_they_came_about(text: str, place: int) -> None:
    messages = Messages([Message(text)])
    [whole] = messages.all
    cut = messages.made([Cut(whole, place)], 0)
    assert cut.digest == Message(cut.text).digest
    assert messages.made([cut.text], 10**6).digest == cut.digest
    assert len({Message(text).digest, Question(text).digest, Answer(text).digest, Answer.failed(text).digest}) == 4


def test_a_digest_covers_what_is_pointed_to_and_where_the_parts_end() -> None:
    assert Message("see $1", ("a",)).digest != Message("see $1", ("b",)).digest
    assert digest("ab", "c") != digest("a", "bc")
    question = Question("x")
    assert question.digest == question.digest == Question("x").digest
    assert question == Question("x")  # that one of them has worked out its digest makes no difference


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(0, 2_000))
def test_what_is_put_together_or_written_out_is_never_longer_than_allowed(texts: list[str], most: int) -> None:
    parts = [Message(text) for text in texts]
    messages = Messages(parts)
    outer = Message(" ".join(f"${n + 1}" for n in range(len(parts))), tuple(part.digest for part in parts))
    in_full = " ".join(texts)
    try:
        assert messages.expanded(outer, most) == in_full
        assert len(in_full) <= most
    except TooLong:
        assert (
            max(len(in_full), len(outer.text), *(len(text) for text in texts)) > most
            or len(in_full) + len(outer.text) > most
        )
    try:
        made = messages.made([*texts, "end"], most)
        assert made.size == sum(map(len, texts)) + 3 <= most
    except TooLong:
        assert sum(map(len, texts)) + 3 > most


def test_doubling_pointers_do_not_double_what_it_takes_to_refuse_them() -> None:
    messages = Messages([Message("x" * 10)])
    pointer = next(iter(messages.all))
    for _ in range(60):  # written out, 10 * 2**60 characters
        pointer = messages.add(Message("$1$2", (pointer, pointer)))
    with pytest.raises(TooLong):
        messages.expanded(messages[pointer], 10_000)


def test_pointers_in_pieces_are_numbered_on() -> None:
    a, b = Message("a"), Message("b")
    one, two = Message("first $1, price $5", (a.digest,)), Message("then $1", (b.digest,))
    messages = Messages([a, b, one, two])
    made = messages.made([Cut(one.digest), "; $1 ", Cut(two.digest)], 1_000)
    assert made.pointers == (a.digest, b.digest)
    assert made.text == "first $1, price $5; $1 then $2"


@given(st.text(st.sampled_from("$0123 x"), max_size=30), st.integers(0, 3))
def test_numbers_beyond_the_pointers_stand_for_themselves(text: str, count: int) -> None:
    assert with_pointers(text, count, lambda n: f"${n}") == text
    assert with_pointers(text, 0, lambda n: "!") == text
