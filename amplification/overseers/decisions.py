"""Decisions: what a person did in a workspace, kept so that nobody is asked the same twice."""

from __future__ import annotations

import json

from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, String, Table, Text, select

from amplification.overseers.notation import workspace_text
from amplification.question import digest
from amplification.records import action_from, action_record
from amplification.store import Store
from amplification.workspace import Action, Left, Workspace

metadata = MetaData()

# `key` is `key_of` the workspace; its text is there for people.
decision_table = Table(
    "decision",
    metadata,
    Column("overseer", String(128), nullable=False),
    Column("key", String(32), nullable=False),
    Column("workspace", Text, nullable=False),
    Column("action", Text, nullable=False),
    PrimaryKeyConstraint("overseer", "key"),
)


def shown_text(workspace: Workspace) -> str:
    """A workspace without the budget left, which is another whenever the same question is asked again."""
    return workspace_text(Workspace(workspace.question, workspace.events, workspace.pointers, Left()))


def key_of(workspace: Workspace) -> str:
    """A name for a workspace, the budget left aside. Pointers count by what they stand for, not by their number."""
    return digest(shown_text(workspace), *(pointer.digest for pointer in workspace.pointers))


class Decisions:
    """One overseer's decisions in a store."""

    def __init__(self, store: Store, overseer: str) -> None:
        store.create(metadata)
        self.store, self.overseer = store, overseer

    def get(self, workspace: Workspace) -> Action | None:
        """What was decided in this workspace; None if nothing was."""
        mine = (decision_table.c.overseer == self.overseer) & (decision_table.c.key == key_of(workspace))
        with self.store.engine.connect() as connection:
            found = connection.execute(select(decision_table.c.action).where(mine)).scalar()
        return None if found is None else action_from(json.loads(found))

    def put(self, workspace: Workspace, action: Action) -> None:
        """Keep a decision, unless there is one."""
        row = {"overseer": self.overseer, "key": key_of(workspace), "workspace": shown_text(workspace)}
        self.store.insert(decision_table, [row | {"action": json.dumps(action_record(action))}])

    def forget(self, workspace: Workspace) -> bool:
        """Take a decision back, so that it is asked for again; says whether there was one."""
        mine = (decision_table.c.overseer == self.overseer) & (decision_table.c.key == key_of(workspace))
        with self.store.engine.begin() as connection:
            return connection.execute(decision_table.delete().where(mine)).rowcount > 0
