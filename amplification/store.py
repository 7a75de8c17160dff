"""Store: memo and episodes in SQLite (WAL), written as they happen. PostgreSQL by URL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.schema import CreateIndex, CreateTable

from amplification.episode import Episode
from amplification.errors import InputError, StageError
from amplification.messages import Content, Excerpt
from amplification.question import digest
from amplification.records import message_from, message_record, node_record

FORMAT = 3

# How long a database that another process writes to is waited for, in milliseconds.
BUSY_MS = 30_000

# Values in one query: databases have a limit on them.
AT_ONCE = 500

metadata = MetaData()

meta_table = Table("meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False))

memo_table = Table(
    "memo",
    metadata,
    Column("agent", String(32), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("params", String(128), nullable=False),
    Column("sample", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("finished", Integer, nullable=False),
    Column("logprob", Float),
    Column("scope", String(128), nullable=False),
    PrimaryKeyConstraint("agent", "prompt", "params", "sample"),
)

# `id` is `episode_id`; `created` is in seconds since 1970; `pointers` are the question's, a JSON list.
episode_table = Table(
    "episode",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created", Float, nullable=False, index=True),
    Column("scope", String(128), nullable=False),
    Column("question", Text, nullable=False),
    Column("pointers", Text, nullable=False),
    Column("agent", String(32), nullable=False),
    Column("overseer", Text, nullable=False),
    Column("stop", String(32), nullable=False),
    Column("answer", Text, nullable=False),
    Column("failure", Text),
    Column("seconds", Float, nullable=False),
    Column("cost", Text, nullable=False),
    Column("tree", Text, nullable=False),
)

message_table = Table(
    "message",
    metadata,
    Column("digest", String(32), primary_key=True),
    Column("record", Text, nullable=False),
)


class Store:
    """One database. Raises InputError for a file that is no store or was written by a newer version."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        where = url.removeprefix("sqlite:///")
        try:
            if not self._has_format(where):
                self.create(metadata)
                self.insert(meta_table, [{"key": "format", "value": str(FORMAT)}])
        except OperationalError as error:
            raise InputError(
                where, f"the store cannot be opened ({error.orig})", "check that the folder is writable"
            ) from error
        except DatabaseError as error:
            remedy = "move the file away; the run then asks again"
            raise InputError(where, f"the store is not a readable database ({error.orig})", remedy) from error

    @classmethod
    def at(cls, path: Path) -> Store:
        return cls(f"sqlite:///{path}")

    def create(self, tables: MetaData) -> None:
        """Make tables that are not there yet; of two processes that open a new store at once, each may come first."""
        missing = set(tables.tables) - set(inspect(self.engine).get_table_names())
        with self.engine.begin() as connection:
            for name in sorted(missing):
                connection.execute(CreateTable(tables.tables[name], if_not_exists=True))
                for index in tables.tables[name].indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def _has_format(self, where: str) -> bool:
        """Whether this is a store already. Nothing is written then: neither does a reader wait for a writer, nor is a
        store of another version changed, for which InputError is raised."""
        if not inspect(self.engine).has_table(meta_table.name):
            return False
        with self.engine.connect() as connection:
            found = connection.execute(select(meta_table.c.value).where(meta_table.c.key == "format")).scalar()
        if found is not None and int(found) != FORMAT:
            newer = int(found) > FORMAT
            problem = f"format {found} is {'newer' if newer else 'older'} than this version reads ({FORMAT})"
            raise InputError(where, problem, "upgrade this package" if newer else "make the run again elsewhere")
        return found is not None

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows in one transaction; a row whose key is already there is left as it is.

        Raises StageError if the database refuses (a full disk, for example); nothing of the batch is then kept.
        """
        if not rows:
            return
        statement: Any = table.insert()
        if self.engine.dialect.name == "sqlite":
            statement = statement.prefix_with("OR IGNORE")
        elif self.engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert

            statement = insert(table).on_conflict_do_nothing()
        try:
            with self.engine.begin() as connection:
                connection.execute(statement, list(rows))
        except DatabaseError as error:
            raise StageError(
                f"{self.url}: cannot write to the store ({error.orig}); free some space and run again"
            ) from error

    def add_episodes(self, scope: str, episodes: Sequence[Episode]) -> None:
        """Write episodes, and first the messages that they point to."""
        self.add_messages(message for episode in episodes for message in episode.messages.values())
        self.insert(episode_table, [_episode_row(scope, episode) for episode in episodes])

    def add_messages(self, messages: Iterable[Content]) -> None:
        """Write messages, each with what it was cut from."""
        found: dict[str, Content] = {}
        for message in messages:
            if isinstance(message, Excerpt):
                found[message.source.digest] = message.source
            found[message.digest] = message
        self.insert(message_table, [{"digest": d, "record": json.dumps(message_record(m))} for d, m in found.items()])

    def messages(self, digests: Iterable[str], gaps: bool = False) -> dict[str, Content]:
        """These messages and all that they point to, and so on.

        Raises InputError for one that is not there; with `gaps` it is left out (an overseer may have named anything).
        """
        found: dict[str, Content] = {}
        sources: dict[str, Content] = {}
        wanted = list(dict.fromkeys(digests))
        while wanted:
            records = self._message_records(wanted, gaps)
            missing = {record["source"] for record in records.values() if "source" in record} - sources.keys()
            sources |= {d: message_from(r, {}) for d, r in self._message_records(missing).items()}
            new = {digest: message_from(record, sources) for digest, record in records.items()}
            found |= new
            wanted = list({pointer for message in new.values() for pointer in message.pointers} - found.keys())
        return found

    def _message_records(self, digests: Iterable[str], gaps: bool = False) -> dict[str, dict[str, Any]]:
        wanted = list(digests)
        rows: dict[str, dict[str, Any]] = {}
        with self.engine.connect() as connection:
            for start in range(0, len(wanted), AT_ONCE):
                query = select(message_table).where(message_table.c.digest.in_(wanted[start : start + AT_ONCE]))
                rows |= {row.digest: json.loads(row.record) for row in connection.execute(query)}
        lost = next((digest for digest in wanted if digest not in rows), None)
        if lost is not None and not gaps:
            where = self.url.removeprefix("sqlite:///")
            raise InputError(where, f"the message {lost} is not in this store", "ask the question again")
        return rows

    def memo_rows(self, agent: str) -> Iterator[Any]:
        with self.engine.connect() as connection:
            yield from connection.execute(select(memo_table).where(memo_table.c.agent == agent))

    def memo_row(self, key: tuple[str, str, str, int]) -> Any | None:
        """One row of the memo by its primary key (agent, prompt, params, sample), if there is one."""
        columns = (memo_table.c.agent, memo_table.c.prompt, memo_table.c.params, memo_table.c.sample)
        conditions = [column == value for column, value in zip(columns, key, strict=True)]
        with self.engine.connect() as connection:
            return connection.execute(select(memo_table).where(*conditions)).first()

    def close(self) -> None:
        self.engine.dispose()


def episode_id(scope: str, episode: Episode) -> str:
    """An episode's name: the same wherever and however often the same question is answered in one scope."""
    return digest(scope, episode.agent, episode.overseer, episode.question.digest)


def _episode_row(scope: str, episode: Episode) -> dict[str, Any]:
    return {
        "id": episode_id(scope, episode),
        "created": time.time(),
        "scope": scope,
        "question": episode.question.text,
        "pointers": json.dumps(list(episode.question.pointers)),
        "agent": episode.agent,
        "overseer": episode.overseer,
        "stop": episode.stop.value,
        "answer": episode.answer.text,
        "failure": episode.answer.failure,
        "seconds": episode.seconds,
        "cost": json.dumps(asdict(episode.cost)),
        "tree": json.dumps(node_record(episode.tree)),
    }


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            # WAL lets readers work beside one writer; NORMAL survives kill -9 (only a power cut can lose the tail).
            connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
            _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"))
            connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _patiently(work: Callable[[], object]) -> None:
    """Do over what SQLite does not wait for: of two that turn a new database to WAL at once, one is refused."""
    deadline = time.monotonic() + BUSY_MS / 1_000
    while True:
        try:
            work()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
