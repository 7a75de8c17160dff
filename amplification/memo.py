"""Memo: completions already given, keyed on (agent digest, exact prompt, sampling parameters, sample index)."""

from __future__ import annotations

from collections.abc import Sequence

from amplification.serving.base import Call, Completion
from amplification.store import Store, memo_table

Key = tuple[str, str, str, int]


def key_of(agent: str, call: Call) -> Key:
    return (agent, call.prompt, call.params.key(), call.sample)


class Memo:
    """A dictionary in front of the store's memo table.

    `scope` names the stage that asks. What the same scope wrote before a kill is *recovered*: it is not asked again,
    yet its first use is reported as a call and not as a hit, so that a killed and resumed stage reports the same cost
    as an uninterrupted one.
    """

    def __init__(self, store: Store | None = None, scope: str = "") -> None:
        self.store, self.scope = store, scope
        self._known: dict[Key, Completion] = {}
        self._recovered: set[Key] = set()
        self._agents: set[str] = set()

    def load(self, agent: str) -> None:
        """Read what the store knows of an agent; done once an agent."""
        if agent in self._agents or self.store is None:
            return
        self._agents.add(agent)
        for row in self.store.memo_rows(agent):
            key = (row.agent, row.prompt, row.params, row.sample)
            self._known[key] = Completion(
                row.text, row.prompt_tokens, row.completion_tokens, bool(row.finished), row.logprob
            )
            if row.scope == self.scope:
                self._recovered.add(key)

    def get(self, key: Key) -> tuple[Completion | None, bool]:
        """The completion, and whether using it is a hit (False for a miss, and for a recovered call's first use)."""
        found = self._known.get(key)
        if found is not None and key in self._recovered:
            self._recovered.discard(key)
            return found, False
        return found, found is not None

    def put(self, entries: Sequence[tuple[Key, Completion]]) -> None:
        """Remember completions, on disk first. Completions with an error are not remembered."""
        good = [(key, completion) for key, completion in entries if completion.error is None]
        if self.store is not None:
            self.store.insert(memo_table, [_row(key, completion, self.scope) for key, completion in good])
        self._known.update(good)


def _row(key: Key, completion: Completion, scope: str) -> dict[str, object]:
    agent, prompt, params, sample = key
    return {
        "agent": agent,
        "prompt": prompt,
        "params": params,
        "sample": sample,
        "text": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "finished": int(completion.finished),
        "logprob": completion.logprob,
        "scope": scope,
    }
