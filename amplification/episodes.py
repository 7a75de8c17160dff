"""Episodes in a store: listed, found again, and exported with all that their pointers stand for."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, or_, select

from amplification.episode import Cost, Episode, Node, StopReason
from amplification.errors import InputError
from amplification.messages import Content, Cut, Excerpt
from amplification.records import Record, message_from, message_record, node_from, node_record
from amplification.store import Store, episode_table
from amplification.workspace import Action, Ask, Look, Make, Reply

# Hex digits of an episode's id that are shown; any that tell it from the others find it.
SHORT = 8
FEWEST = 4


@dataclass(frozen=True)
class Wanted:
    """Which episodes: of a scope (or of those below it), with a stop reason, with a text in question or answer."""

    scope: str = ""
    stop: StopReason | None = None
    text: str = ""

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        columns = episode_table.c
        if self.scope:
            below = columns.scope.startswith(self.scope.rstrip("/") + "/", autoescape=True)
            yield or_(columns.scope == self.scope, below)
        if self.stop is not None:
            yield columns.stop == self.stop.value
        if self.text:
            in_question = columns.question.contains(self.text, autoescape=True)
            yield or_(in_question, columns.answer.contains(self.text, autoescape=True))


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Summary:
    """An episode without its tree. `created` is in seconds since 1970."""

    id: str
    created: float
    scope: str
    question: str
    agent: str
    overseer: str
    stop: StopReason
    answer: str
    failure: str | None
    seconds: float
    cost: Cost


def listed(stores: Sequence[Store], wanted: Wanted = EVERYTHING, limit: int | None = None) -> Iterator[Summary]:
    """Episodes of all stores, newest first, one at a time."""
    columns = [column for column in episode_table.c if column.name not in ("tree", "pointers")]
    query = _newest_first(select(*columns), wanted, limit)
    newest = heapq.merge(*(_rows(store, query) for store in stores), key=lambda row: (-row.created, row.id))
    return map(_summary, islice(newest, limit))


def found(stores: Sequence[Store], name: str) -> tuple[Summary, Episode]:
    """The episode whose id begins with `name`. Raises InputError if there is none, or more than one."""
    if not re.fullmatch(f"[0-9a-f]{{{FEWEST},32}}", name):
        problem = f"'{name}' is not an episode's id"
        raise InputError("episodes", problem, f"give {FEWEST} to 32 of its hex digits, as 'list' shows them")
    query = select(episode_table).where(episode_table.c.id.startswith(name)).limit(2)
    rows = [(store, row) for store in stores for row in _rows(store, query)]
    if not rows:
        raise InputError("episodes", f"there is no episode {name}", "see 'amplify episodes --run RUN list'")
    if len({row.id for _, row in rows}) > 1:
        raise InputError("episodes", f"several episodes begin with {name}", "give more of the id")
    store, row = rows[0]
    return _summary(row), _episode(store, row)


def exported(stores: Sequence[Store], wanted: Wanted = EVERYTHING, limit: int | None = None) -> Iterator[Record]:
    """Each episode as JSON-ready data, newest first, one tree in memory at a time."""
    for summary in listed(stores, wanted, limit):
        yield episode_record(*found(stores, summary.id))


def episode_record(summary: Summary, episode: Episode) -> Record:
    """An episode with its tree and all messages that it points to: nothing else is needed to read it."""
    messages = dict(episode.messages)
    sources = [message.source for message in messages.values() if isinstance(message, Excerpt)]
    messages |= {source.digest: source for source in sources}
    return asdict(summary) | {
        "stop": summary.stop.value,
        "tree": node_record(episode.tree),
        "messages": {digest: message_record(message) for digest, message in messages.items()},
    }


def episode_from(record: Mapping[str, Any]) -> Episode:
    """The episode that `episode_record` was given. Raises KeyError, TypeError or ValueError for anything else."""
    records: Mapping[str, Record] = record["messages"]
    whole = {digest: message_from(r, {}) for digest, r in records.items() if "source" not in r}
    cut = {digest: message_from(r, whole) for digest, r in records.items() if "source" in r}
    stop, cost = StopReason(record["stop"]), Cost(**record["cost"])
    tree = node_from(record["tree"])
    return Episode(tree, stop, cost, record["seconds"], record["agent"], record["overseer"], whole | cut)


def pointers_of(root: Node) -> Iterator[str]:
    """Every pointer in a tree, repeats included."""
    for node in root.nodes():
        yield from node.question.pointers
        yield from node.answer.pointers
        if node.asked is not None:
            yield from node.asked.pointers
        for step in node.steps or ():
            yield from _pointers_in(step.action)


def _pointers_in(action: Action) -> Iterable[str]:
    match action:
        case Ask(subs):
            return [pointer for sub in subs for pointer in sub.question.pointers]
        case Look(pointer):
            return [pointer]
        case Make(messages):
            return [piece.pointer for pieces in messages for piece in pieces if isinstance(piece, Cut)]
        case Reply(_, pointers):
            return pointers
    return []


def _newest_first(query: Select[Any], wanted: Wanted, limit: int | None) -> Select[Any]:
    return query.where(*wanted.conditions()).order_by(episode_table.c.created.desc(), episode_table.c.id).limit(limit)


def _rows(store: Store, query: Select[Any]) -> Iterator[Row[Any]]:
    # A few rows at a time: a store may be larger than memory. In WAL mode a writer beside us does not wait.
    with store.engine.connect() as connection:
        yield from connection.execution_options(yield_per=100).execute(query)


def _summary(row: Row[Any]) -> Summary:
    names = ("id", "created", "scope", "question", "agent", "overseer")
    own = {name: getattr(row, name) for name in names}
    cost = Cost(**json.loads(row.cost))
    return Summary(
        **own, stop=StopReason(row.stop), answer=row.answer, failure=row.failure, seconds=row.seconds, cost=cost
    )


def _episode(store: Store, row: Row[Any]) -> Episode:
    tree = node_from(json.loads(row.tree))
    messages: dict[str, Content] = store.messages(pointers_of(tree), gaps=True)
    cost = Cost(**json.loads(row.cost))
    return Episode(tree, StopReason(row.stop), cost, row.seconds, row.agent, row.overseer, messages)
