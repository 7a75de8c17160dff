"""The memo of what is asked by hand: a run's answers are read through, and new ones kept beside it."""

from __future__ import annotations

from amplification.memo import Memo
from amplification.serving.base import Completion
from amplification.store import Store


class ReadThroughMemo(Memo):
    """What `store` and the stores `below` it know; new completions go into `store` alone.

    Whatever was known before counts as a hit, in whichever process or session it was asked.
    """

    def __init__(self, store: Store, below: tuple[Store, ...] = ()) -> None:
        super().__init__(store, scope="ask")
        self.below = below

    def load(self, agent: str) -> None:
        """Read what all stores know of an agent; done once an agent."""
        if agent in self._agents:
            return
        self._agents.add(agent)
        for store in (*self.below, *([self.store] if self.store else [])):
            for row in store.memo_rows(agent):
                completion = Completion(row.text, row.prompt_tokens, row.completion_tokens, bool(row.finished))
                self._known[row.agent, row.prompt, row.params, row.sample] = completion
