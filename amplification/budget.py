"""Budget: calls, tokens, depth and seconds, conserved over the whole tree of one question.

A parent opens a child account with a part of what it has left (the part is reserved) and closes it when the child
returns (what was not spent comes back). At every moment, for each account: spent + reserved <= granted. Nothing an
overseer or a model says reaches this code; only the meta-execution loop calls it.

A call is one call of a model, A's or the overseer's, or one copy of H^A: so even an overseer that never asks A has no
more than so many workspaces.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from amplification.workspace import Left

# Trees are written as nested JSON, which Python reads and writes by recursion; the budget halves at each level anyway.
MOST_DEPTH = 100


class Limits(BaseModel):
    """What one episode may use.

    calls: calls of models, and copies of H^A; tokens: prompt and completion tokens; depth: nested copies of H^A;
    seconds: wall clock; steps: overseer steps in one workspace; workspace_chars: characters shown to the overseer at
    one step, and to A in one call; made_chars: characters of all messages that H puts together from several pieces.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int = Field(default=1_000, ge=1)
    tokens: int = Field(default=1_000_000, ge=1)
    depth: int = Field(default=12, ge=1, le=MOST_DEPTH)
    seconds: float = Field(default=600.0, gt=0)
    steps: int = Field(default=16, ge=1)
    workspace_chars: int = Field(default=4_000, ge=1)
    made_chars: int = Field(default=10_000_000, ge=1)


class OutOfBudget(Exception):
    """Raised inside meta-execution alone, which turns it into a failed answer. Its text names what ran out."""


class Account:
    """One node's part of the budget."""

    __slots__ = (
        "calls",
        "calls_reserved",
        "calls_spent",
        "deadline",
        "depth",
        "tokens",
        "tokens_reserved",
        "tokens_spent",
    )

    def __init__(self, calls: int, tokens: int, depth: int, deadline: float) -> None:
        self.calls, self.tokens, self.depth, self.deadline = calls, tokens, depth, deadline
        self.calls_spent = self.tokens_spent = self.calls_reserved = self.tokens_reserved = 0

    @classmethod
    def root(cls, limits: Limits) -> Account:
        return cls(limits.calls, limits.tokens, limits.depth, time.monotonic() + limits.seconds)

    @property
    def calls_left(self) -> int:
        return self.calls - self.calls_spent - self.calls_reserved

    @property
    def tokens_left(self) -> int:
        return self.tokens - self.tokens_spent - self.tokens_reserved

    def left(self) -> Left:
        """What is left, as the overseer is shown it."""
        return _left(
            rounded(self.calls - self.calls_spent - self.calls_reserved),
            rounded(self.tokens - self.tokens_spent - self.tokens_reserved),
            rounded(self.depth),
            rounded(int(self.deadline - time.monotonic())),
        )

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfBudget("out of seconds")

    def reserve(self, calls: int, tokens: int) -> None:
        """Set aside calls and tokens that are about to be used. Raises OutOfBudget if there is too little left."""
        if calls > self.calls_left:
            raise OutOfBudget("out of calls")
        if tokens > self.tokens_left:
            raise OutOfBudget("out of tokens")
        self.calls_reserved += calls
        self.tokens_reserved += tokens

    def settle(self, calls: int, tokens: int, calls_used: int, tokens_used: int) -> None:
        """Give back a reservation of (calls, tokens), of which a part was used."""
        self.calls_reserved -= calls
        self.tokens_reserved -= tokens
        self.calls_spent += calls_used
        self.tokens_spent += min(tokens_used, tokens)

    def open_children(self, number: int) -> list[Account]:
        """Child accounts with equal parts of what is left, a tenth of which stays here for the next steps.

        Each has spent one call, its own copy of H^A. What a child does not spend comes back when it is closed, so a
        part is a bound and not a loss. Raises OutOfBudget if a part would be nothing.
        """
        if self.depth <= 0:
            raise OutOfBudget("out of depth")
        calls, tokens = (self.calls_left - self.calls_left // 10) // number, (self.tokens_left * 9 // 10) // number
        if calls < 1 or tokens < 1:
            raise OutOfBudget("out of calls" if calls < 1 else "out of tokens")
        self.reserve(calls * number, tokens * number)
        children = [Account(calls, tokens, self.depth - 1, self.deadline) for _ in range(number)]
        for child in children:
            child.calls_spent = 1
        return children

    def close_child(self, child: Account) -> None:
        """Take back what a child, which has returned, did not spend."""
        self.settle(child.calls, child.tokens, child.calls_spent, child.tokens_spent)


_POWERS = (0, *(10**n for n in range(40)))


def rounded(number: int) -> int:
    """Rounded down to a power of ten (0 stays 0), so that a budget shown to H does not spoil the memo."""
    if number >= _POWERS[-1]:
        return int(10 ** (len(str(number)) - 1))
    return _POWERS[bisect_right(_POWERS, number) - 1] if number > 0 else 0


@lru_cache(maxsize=4096)
def _left(calls: int, tokens: int, depth: int, seconds: int) -> Left:
    # A few distinct values in a tree of any size: one object each.
    return Left(calls, tokens, depth, seconds)
