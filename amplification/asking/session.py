"""Session: what a person has asked, attached and corrected, as rows in a store that several processes may share."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Column, Float, MetaData, PrimaryKeyConstraint, String, Table, Text, func, select, update
from sqlalchemy import Integer as Whole
from sqlalchemy.exc import IntegrityError

from amplification.corrections import Corrections
from amplification.episode import Episode
from amplification.errors import InputError
from amplification.messages import Content
from amplification.question import Answer, Message, Question
from amplification.store import Store, episode_id

metadata = MetaData()

session_table = Table(
    "session",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created", Float, nullable=False),
)

attachment_table = Table(
    "attachment",
    metadata,
    Column("session", String(64), nullable=False),
    Column("number", Whole, nullable=False),
    Column("file", Text, nullable=False),
    Column("digest", String(32), nullable=False),
    Column("size", Whole, nullable=False),
    PrimaryKeyConstraint("session", "number"),
)

# `episode` is null while a question is being answered, and stays so where that was cut short. `answer` is the answer's
# digest, null where there is none.
turn_table = Table(
    "turn",
    metadata,
    Column("session", String(64), nullable=False),
    Column("number", Whole, nullable=False),
    Column("created", Float, nullable=False),
    Column("typed", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("pointers", Text, nullable=False),
    Column("agent", String(32), nullable=False),
    Column("episode", String(32)),
    Column("answer", String(32)),
    PrimaryKeyConstraint("session", "number"),
)

correction_table = Table(
    "correction",
    metadata,
    Column("session", String(64), nullable=False),
    Column("number", Whole, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("question", Text, nullable=False),
    Column("pointers", Text, nullable=False),
    Column("text", Text, nullable=False),
    PrimaryKeyConstraint("session", "number"),
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# What is asked without opening a session is kept under this name.
ONCE = "once"


@dataclass(frozen=True)
class Attachment:
    """A file's text, which `$number` stands for; `size` in characters."""

    number: int
    file: str
    digest: str
    size: int


@dataclass(frozen=True)
class Turn:
    """One question of a session. `episode` is None where the answer is not finished; `answer` is a pointer to it."""

    number: int
    typed: str
    question: Question
    agent: str
    episode: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Correction:
    """An answer rejected, or a question edited: `text` is the answer, or what is asked instead."""

    number: int
    kind: Literal["reject", "edit"]
    question: Question
    text: str


class Session:
    """One session of a store, made if it is new. Nothing is held in memory: what is asked for is read each time.

    Raises InputError for a name that cannot be one.
    """

    def __init__(self, store: Store, name: str) -> None:
        if not NAME.fullmatch(name):
            remedy = "use letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit"
            raise InputError("--session", f"'{name}' cannot be a session's name", remedy)
        store.create(metadata)
        self.store, self.name = store, name
        store.insert(session_table, [{"name": name, "created": time.time()}])

    @classmethod
    def new(cls, store: Store) -> Session:
        """A session under the first free name of s1, s2, ..."""
        store.create(metadata)
        number = 1
        while True:
            try:
                with store.engine.begin() as connection:
                    connection.execute(session_table.insert().values(name=f"s{number}", created=time.time()))
                return cls(store, f"s{number}")
            except IntegrityError:
                number += 1

    @classmethod
    def names(cls, store: Store) -> list[str]:
        """All sessions, oldest first."""
        store.create(metadata)
        with store.engine.connect() as connection:
            return list(connection.execute(select(session_table.c.name).order_by(session_table.c.created)).scalars())

    def attach(self, file: str, text: str) -> Attachment:
        """Keep a text; later questions may point to it."""
        message = Message(text)
        self.store.add_messages([message])
        number = self._add(attachment_table, file=file, digest=message.digest, size=message.size)
        return Attachment(number, file, message.digest, message.size)

    def attachments(self) -> list[Attachment]:
        return [Attachment(row.number, row.file, row.digest, row.size) for row in self._rows(attachment_table)]

    def begin(self, typed: str, question: Question, agent: str) -> Turn:
        """A question is about to be answered; it is kept before that, so that an interruption does not lose it."""
        pointers = json.dumps(list(question.pointers))
        number = self._add(
            turn_table, created=time.time(), typed=typed, question=question.text, pointers=pointers, agent=agent
        )
        return Turn(number, typed, question, agent)

    def end(self, turn: Turn, episode: Episode) -> Turn:
        """A question has been answered: its episode, and that it belongs to this turn."""
        scope = f"ask/{self.name}/{turn.number}"
        self.store.add_messages([episode.answer])  # `$a` pointers stand for it
        self.store.add_episodes(scope, [episode])
        ended = replace(
            turn, episode=episode_id(scope, episode), answer=episode.answer.digest if episode.answer.ok else None
        )
        mine = (turn_table.c.session == self.name) & (turn_table.c.number == turn.number)
        with self.store.engine.begin() as connection:
            connection.execute(update(turn_table).where(mine).values(episode=ended.episode, answer=ended.answer))
        return ended

    def turns(self) -> list[Turn]:
        return [
            Turn(row.number, row.typed, _question(row.question, row.pointers), row.agent, row.episode, row.answer)
            for row in self._rows(turn_table)
        ]

    def turn(self, number: int) -> Turn | None:
        return next((turn for turn in self.turns() if turn.number == number), None)

    def reject(self, question: Question, answer: Answer) -> None:
        """From now on nobody may give this answer to this question."""
        self._correct("reject", question, answer.text)

    def edit(self, question: Question, text: str) -> None:
        """From now on `text`, with the question's own pointers, is asked in place of this question."""
        self._correct("edit", question, text)

    def undo(self) -> Correction | None:
        """Take the last correction back; None if there is none."""
        made = self.corrected()
        if not made:
            return None
        where = (correction_table.c.session == self.name) & (correction_table.c.number == made[-1].number)
        with self.store.engine.begin() as connection:
            connection.execute(correction_table.delete().where(where))
        return made[-1]

    def corrected(self) -> list[Correction]:
        return [
            Correction(row.number, row.kind, _question(row.question, row.pointers), row.text)
            for row in self._rows(correction_table)
        ]

    def corrections(self) -> Corrections:
        """All corrections so far, as an episode takes them. The last edit of a question is the one that counts."""
        rejected: set[tuple[str, str]] = set()
        edited: dict[str, Question] = {}
        for made in self.corrected():
            digest, instead = made.question.digest, Question(made.text, made.question.pointers)
            if made.kind == "reject":
                rejected.add((digest, made.text))
            elif instead.digest == digest:
                edited.pop(digest, None)  # edited back to what it was
            else:
                edited[digest] = instead
        return Corrections(frozenset(rejected), edited)

    def messages(self, pointers: tuple[str, ...]) -> dict[str, Content]:
        """What pointers of this session's questions stand for, and so on."""
        return self.store.messages(pointers)

    def _correct(self, kind: str, question: Question, text: str) -> None:
        pointers = json.dumps(list(question.pointers))
        self._add(correction_table, kind=kind, question=question.text, pointers=pointers, text=text)

    def _rows(self, table: Table) -> list[Any]:
        query = select(table).where(table.c.session == self.name).order_by(table.c.number)
        with self.store.engine.connect() as connection:
            return list(connection.execute(query))

    def _add(self, table: Table, **values: Any) -> int:
        """Write a row under the next number, which another process may have taken in the meantime."""
        last = select(func.coalesce(func.max(table.c.number), 0)).where(table.c.session == self.name)
        while True:
            try:
                with self.store.engine.begin() as connection:
                    number: int = connection.execute(last).scalar_one() + 1
                    connection.execute(table.insert().values(session=self.name, number=number, **values))
                return number
            except IntegrityError:
                continue


def _question(text: str, pointers: str) -> Question:
    return Question(text, tuple(json.loads(pointers)))
