"""Memo: completions already given, keyed on (agent digest, exact prompt, sampling parameters, sample index)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amplification.serving.base import Call, Completion
from amplification.store import Store, memo_table

Key = tuple[str, str, str, int]

# Completions that a memo with a store holds in memory: some 300 bytes each, and the prompt.
MOST_KNOWN = 500_000


def keys_of(agent: str, calls: Sequence[Call]) -> list[Key]:
    """The key of each call. The calls of one step mostly share their parameters, whose name is then made once."""
    keys: list[Key] = []
    params, name = None, ""
    for call in calls:
        if call.params is not params:
            params, name = call.params, call.params.key()
        keys.append((agent, call.prompt, name, call.sample))
    return keys


class Memo:
    """A dictionary in front of the store's memo table; with a store it holds no more than `most` completions.

    What it has let go of is looked up in the store when it is asked for again.

    `scope` names the stage that asks. What the same scope wrote before a kill is *recovered*: it is not asked again,
    yet its first use is reported as a call and not as a hit, so that a killed and resumed stage reports the same cost
    as an uninterrupted one.
    """

    def __init__(self, store: Store | None = None, scope: str = "", most: int = MOST_KNOWN) -> None:
        self.store, self.scope, self.most = store, scope, most
        self._whole = True  # nothing has been let go of: what is not known here is not in the store either
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
            if len(self._known) < self.most:
                self._known[key] = _completion(row)
            else:
                self._whole = False
            if row.scope == self.scope:
                self._recovered.add(key)

    def get(self, key: Key) -> tuple[Completion | None, bool]:
        """The completion, and whether using it is a hit (False for a miss, and for a recovered call's first use)."""
        found = self._known.get(key)
        if found is None and not self._whole:
            found = self._looked_up(key)
        if found is not None and key in self._recovered:
            self._recovered.discard(key)
            return found, False
        return found, found is not None

    def put(self, entries: Sequence[tuple[Key, Completion]]) -> None:
        """Remember completions, on disk first. Completions with an error are not remembered."""
        good = [(key, completion) for key, completion in entries if completion.error is None]
        if self.store is not None:
            self.store.insert(memo_table, [_row(key, completion, self.scope) for key, completion in good])
        self._keep(good)

    def _looked_up(self, key: Key) -> Completion | None:
        row = self.store.memo_row(key) if self.store is not None else None
        if row is None:
            return None
        found = _completion(row)
        self._keep([(key, found)])
        return found

    def _keep(self, entries: Sequence[tuple[Key, Completion]]) -> None:
        self._known.update(entries)
        if self.store is None:
            return
        while len(self._known) > self.most:  # the oldest first: depth first, a tree soon has no more use for them
            del self._known[next(iter(self._known))]
            self._whole = False


def _completion(row: Any) -> Completion:
    return Completion(row.text, row.prompt_tokens, row.completion_tokens, bool(row.finished), row.logprob)


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
