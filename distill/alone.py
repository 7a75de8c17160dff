"""PartlyAlone: H^A and H without an agent behind one labeller, so that no agent has the last word on its own reward."""

from __future__ import annotations

from collections.abc import Sequence

from amplification.episode import Cost
from amplification.question import digest
from distill.judgement import Answers, Judge
from distill.progress import Progress


def judged_alone(text: str, share: float, seed: int) -> bool:
    """Whether a question is judged without the agent: with probability `share`, a function of the seed and the text."""
    return int(digest("alone", str(seed), text)[:13], 16) / 16**13 < share


class PartlyAlone:
    """Each question goes to `alone` with probability `share`, and to `judge` otherwise.

    Which it is depends on the seed and the question, so that a round that is resumed asks alike.
    """

    def __init__(self, judge: Judge, alone: Judge, share: float, seed: int) -> None:
        self.judge, self.alone, self.share, self.seed = judge, alone, share, seed

    def answer(self, texts: Sequence[str], progress: Progress | None = None) -> Answers:
        """Answers in order, and what they cost together."""
        where = [judged_alone(text, self.share, self.seed) for text in texts]
        cost = Cost()
        found: dict[int, str | None] = {}
        for judge, alone in ((self.alone, True), (self.judge, False)):
            places = [place for place in range(len(texts)) if where[place] == alone]
            answered = judge.answer([texts[place] for place in places], None if alone else progress)
            cost.add(answered.cost)
            found.update(zip(places, answered.answers, strict=True))
        return Answers(tuple(found[place] for place in range(len(texts))), cost)
