"""Boolean expressions in BIG-Bench Hard's format (`boolean_expressions`). Level = number of literals.

Source of the format: Suzgun et al., "Challenging BIG-Bench Tasks and Whether Chain-of-Thought Can Solve Them"
(2022). Precedence is Python's: `not` binds tighter than `and`, `and` tighter than `or`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from amplification.tasks.base import FACT
from amplification.tasks.halves import answers_or_next, not_mine
from amplification.workspace import Action, GiveUp, Reply, Workspace

MAX_NESTING = 32

# The sampler's densities: of groups among a chain's terms, and of `not` and brackets around a term. Short expressions
# are dense, so that there are enough different ones to learn from; in long ones the chain is the difficulty.
GROUP = 0.08
SHORT, NOT_SHORT, BRACKETS_SHORT = 2, 0.3, 0.15
NOT_LONG, BRACKETS_LONG = 0.13, 0.06
# The most around one term, around a literal that stands alone, and in a whole short expression.
MAX_WRAPS, MAX_WRAPS_ALONE, MAX_WRAPS_SHORT = 3, 4, 4


@dataclass(frozen=True)
class Node:
    """A sub-expression: its words, and either a literal (`op` is True or False) or an operator with its parts."""

    words: tuple[str, ...]
    op: str
    parts: tuple[Node, ...]
    literals: int


class _MalformedError(Exception):
    """Raised inside the parser alone."""


class _Parser:
    """Recursive descent over words; a chain of one operator becomes one node with all its parts."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.at, self.nesting = tuple(words), 0, 0

    def whole(self) -> Node:
        node = self.chain("or")
        if self.at != len(self.words):
            raise _MalformedError
        return node

    def chain(self, op: str) -> Node:
        begin = self.at
        parts = [self._link(op)]
        while self._peek() == op:
            self.at += 1
            parts.append(self._link(op))
        return parts[0] if len(parts) == 1 else self._node(begin, op, parts)

    def _link(self, op: str) -> Node:
        return self.chain("and") if op == "or" else self.unary()

    def unary(self) -> Node:
        begin, word = self.at, self._peek()
        self.at += 1
        if word in ("True", "False"):
            return Node((word,), word, (), 1)
        if word not in ("not", "("):
            raise _MalformedError
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise _MalformedError
        part = self.unary() if word == "not" else self.chain("or")
        if word == "(":
            if self._peek() != ")":
                raise _MalformedError
            self.at += 1
        self.nesting -= 1
        return self._node(begin, word, [part])

    def _peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def _node(self, begin: int, op: str, parts: list[Node]) -> Node:
        return Node(self.words[begin : self.at], op, tuple(parts), sum(part.literals for part in parts))


class Boolean:
    """`not ( True ) and ( True ) is` -> `False`."""

    name = "boolean"
    levels: tuple[int, ...] = (1, 2, 4, 8)

    def sample(self, level: int, rng: random.Random) -> str:
        wraps = _Wraps(NOT_SHORT, BRACKETS_SHORT, MAX_WRAPS) if level <= SHORT else _Wraps(NOT_LONG, BRACKETS_LONG, 2)
        if level == 1:
            return f"{_term(1, wraps._replace(most=MAX_WRAPS_ALONE), rng)} is"
        text = _expression(level, wraps, rng)
        while level <= SHORT and _wrapped(text) > MAX_WRAPS_SHORT:
            text = _expression(level, wraps, rng)
        return f"{text} is"

    def level_of(self, text: str) -> int | None:
        node = _parsed(text)
        return node.literals if node else None

    def split_key(self, text: str) -> str:
        node = self._read(text)
        # A literal with at most MAX_WRAPS around it is what H asks A at level 1: thirty facts, all needed.
        return FACT if node.literals == 1 and _wraps(node) <= MAX_WRAPS else " ".join(node.words)

    def valid_answers(self, text: str) -> tuple[str, ...]:
        self._read(text)
        return ("True", "False")

    def act(self, workspace: Workspace) -> Action:
        node = _parsed(workspace.question.text)
        if node is None:
            return GiveUp(f"not a question of the {self.name} task")
        negated, core = _peeled(node)
        if not core.parts:
            return Reply(str((core.op == "True") != negated))
        sides = [_asked(core.op, side) for side in _halves(core)]
        answers = answers_or_next(self, workspace, [text for _, text in sides], node.literals)
        if not isinstance(answers, list):
            return answers
        values = [(answer == "True") != flipped for answer, (flipped, _) in zip(answers, sides, strict=True)]
        return Reply(str((all(values) if core.op == "and" else any(values)) != negated))

    def truth(self, text: str) -> str:
        return str(_value(self._read(text)))

    def words(self) -> tuple[str, ...]:
        return ("True", "False", "and", "or", "not", "(", ")", "is")

    def _read(self, text: str) -> Node:
        node = _parsed(text)
        if node is None:
            raise not_mine(self, text)
        return node


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Node | None:
    """The tree of a question. Cached: one episode parses each of its questions several times."""
    words = text.split()
    if words[-1:] != ["is"]:
        return None
    try:
        return _Parser(words[:-1]).whole()
    except _MalformedError:
        return None


def _wraps(node: Node) -> int:
    return 1 + _wraps(node.parts[0]) if node.parts else 0


def _value(node: Node) -> bool:
    if node.op == "not":
        return not _value(node.parts[0])
    if node.op == "or":
        return any(_value(part) for part in node.parts)
    return all(_value(part) for part in node.parts) if node.parts else node.op == "True"


def _peeled(node: Node) -> tuple[bool, Node]:
    """The node without outer `not`s and brackets, and whether the `not`s taken off negate it."""
    negated = False
    while node.op in ("not", "("):
        negated ^= node.op == "not"
        node = node.parts[0]
    return negated, node


def _halves(chain: Node) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """A chain cut at the operator nearest its balance point (`and` and `or` are associative)."""

    def imbalance(cut: int) -> int:
        return abs(2 * sum(part.literals for part in chain.parts[:cut]) - chain.literals)

    cut = min(range(1, len(chain.parts)), key=imbalance)
    return chain.parts[:cut], chain.parts[cut:]


def _asked(op: str, parts: Sequence[Node]) -> tuple[bool, str]:
    """The question about one side of a chain, and whether H negates its answer.

    H takes the `not`s and brackets off a group, so that A is asked a chain, which is what a level's questions are.
    """
    if len(parts) == 1 and parts[0].literals > 1:
        flipped, core = _peeled(parts[0])
        return flipped, " ".join([*core.words, "is"])
    words = list(parts[0].words)
    for part in parts[1:]:
        words += [op, *part.words]
    return False, " ".join([*words, "is"])


class _Wraps(NamedTuple):
    """How likely a `not` and brackets are around a term, again and again, and how many there are at most."""

    negated: float
    bracketed: float
    most: int


def _wrapped(text: str) -> int:
    """How many `not`s and pairs of brackets there are."""
    words = text.split()
    return words.count("not") + words.count("(")


def _expression(literals: int, wraps: _Wraps, rng: random.Random) -> str:
    """A chain of literals and bracketed groups; no group is larger than half of its chain."""
    terms: list[str] = []
    left = literals
    while left > 0:
        grouped = literals > 2 and rng.random() < GROUP
        size = min(left, rng.randint(2, max(2, literals // 2))) if grouped else 1
        terms.append(_term(size, wraps, rng))
        left -= size
    words = terms[:1]
    for term in terms[1:]:
        words += [rng.choice(("and", "or")), term]
    return " ".join(words)


def _term(literals: int, wraps: _Wraps, rng: random.Random) -> str:
    """A literal or a bracketed group, with a few `not`s and brackets around it."""
    text = rng.choice(("True", "False")) if literals == 1 else f"( {_expression(literals, wraps, rng)} )"
    for _ in range(wraps.most):
        roll = rng.random()
        if roll >= wraps.negated + wraps.bracketed:
            break
        text = f"not {text}" if roll < wraps.negated else f"( {text} )"
    return text
