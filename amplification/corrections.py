"""Corrections: what a person has said against an episode's answers and questions, for when it is asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amplification.question import Answer, Question

# How often a rejected answer is drawn again before the question counts as unanswered.
TRIES = 4


@dataclass(frozen=True)
class Corrections:
    """`rejected`: (question's digest, answer's text) pairs that nobody may give again. `edited`: what is asked instead
    of a question, by that question's digest."""

    rejected: frozenset[tuple[str, str]] = frozenset()
    edited: Mapping[str, Question] = field(default_factory=dict)

    def rejects(self, question: Question, answer: Answer) -> bool:
        return bool(self.rejected) and answer.ok and (question.digest, answer.text) in self.rejected

    def asked(self, question: Question) -> Question:
        """The question that is asked in place of this one; an edit of an edit counts, a circle is gone round once."""
        if not self.edited:
            return question
        seen = {question.digest}
        while (instead := self.edited.get(question.digest)) is not None and instead.digest not in seen:
            seen.add(instead.digest)
            question = instead
        return question

    def rejecting(self, question: Question, answer: Answer) -> Corrections:
        return Corrections(self.rejected | {(question.digest, answer.text)}, self.edited)

    def editing(self, question: Question, instead: Question) -> Corrections:
        return Corrections(self.rejected, {**self.edited, question.digest: instead})


NONE = Corrections()
