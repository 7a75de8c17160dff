"""What was sent to A for a node, and what came back, as the memo has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select

from amplification.agent import Agent
from amplification.episode import Node
from amplification.messages import Messages, TooLong
from amplification.store import Store, memo_table
from amplification.voting import MOST_SAMPLES


def sent(node: Node, messages: Messages, agent: Agent, stores: Sequence[Store], most_chars: int) -> Iterator[str]:
    """The exact prompt, and each draw of it that a store knows, with its tokens. Texts are as they came."""
    try:
        text = messages.expanded(node.question, most_chars)
    except (TooLong, KeyError) as error:
        yield f"nothing was sent to {agent.name}: {error}"
        return
    first, other = agent.call(text), agent.call(text, 1)
    yield f"sent to {agent.name}: {first.prompt}"
    columns = memo_table.c
    kinds = [first.params.key(), other.params.key()]
    query = select(memo_table).where(columns.agent == agent.digest, columns.prompt == first.prompt)
    draws: dict[int, Any] = {}
    for store in stores:
        with store.engine.connect() as connection:
            draws |= {row.sample: row for row in connection.execute(query.where(columns.params.in_(kinds)))}
    for sample, row in sorted(draws.items()):
        draw = f"draw {sample // MOST_SAMPLES + 1}" + (
            f", sample {rest + 1}" if (rest := sample % MOST_SAMPLES) else ""
        )
        tokens = f"{row.prompt_tokens} tokens in, {row.completion_tokens} out{'' if row.finished else ', cut off'}"
        yield f"came back ({draw}; {tokens}): {row.text}"
    if not draws:
        yield "what came back is not in the memo"
    yield f"from the memo: {'yes, at no cost' if node.by == 'memo' else 'no'}"
