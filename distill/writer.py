"""The writer: a language model that writes attacks from a template under prompts/.

It is shown questions of a task, some of the failures found so far and a kind of attack, never a held-out family or its
kind. What it writes is data: read strictly, bounded in length, and admitted like any other candidate.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.errors import StageError
from amplification.overseers.numbering import shortened
from amplification.serving.base import Call, Completion
from amplification.tasks.attack_families import sampled
from amplification.tasks.attacks import MAX_WORDS, families
from amplification.tasks.base import Task
from distill.archive import Found
from distill.candidate import MAX_CHARS, Candidate, admitted, cleaned
from distill.ledger import FORWARD
from distill.search import Past
from prompts import render

# Attacks asked for in one call of `attack`, and questions and failures shown there.
AT_ONCE = 8
QUESTIONS = 4
FAILURES = 4
ANSWER_CHARS = 100

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"attacks": {"type": "array", "minItems": 1, "items": {"type": "string"}}},
        "required": ["attacks"],
        "additionalProperties": False,
    }
)


def read_attacks(text: str) -> list[str]:
    """The texts in `{"attacks": ["...", ...]}`, the first `AT_ONCE` of them. Raises ValueError for anything else."""
    if len(text) > 2 * AT_ONCE * MAX_CHARS:
        raise ValueError("it is too long")
    try:
        written = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(written, dict) or set(written) != {"attacks"} or not isinstance(written["attacks"], list):
        raise ValueError("it is no object with the key 'attacks' and a list")
    if not written["attacks"] or not all(isinstance(attack, str) for attack in written["attacks"]):
        raise ValueError("'attacks' is no list of texts")
    return written["attacks"][:AT_ONCE]


def read_one(text: str) -> list[str]:
    """The whole text as one attack. Raises ValueError if it is empty or has several lines."""
    if len(text.splitlines()) != 1:
        raise ValueError("it is not one line")
    return [text]


# How what is written is read, by template.
READERS: Mapping[str, Callable[[str], list[str]]] = {"attack": read_attacks, "attack_short": read_one}


def kinds_shown() -> list[str]:
    """The kinds of attack that a writer is asked for: those of the families that runs are trained on, in order."""
    return list(dict.fromkeys(family.kind for family in families(held_out=False)))


class WriterAdversary:
    """Asks a model for attacks: a task and a kind drawn for each call, and failures found so far, whoever found them.

    `agent` names the model, how it is drawn from and the template. Raises InputError where the model's size, which the
    ledger needs, cannot be found out.
    """

    name = "writer"

    def __init__(self, tasks: Mapping[str, Task], up_to: int, agent: Agent, dispatcher: Dispatcher) -> None:
        self.tasks, self.up_to, self.agent, self.dispatcher = dict(tasks), up_to, agent, dispatcher
        self.parameters = dispatcher.sampler.parameters(agent.model)
        self.cost, self.told, self.asked = Cost(), Counter[str](), 0

    def propose(self, count: int, past: Past, rng: random.Random) -> list[Candidate]:
        """What it writes in as many calls as `count` needs if all goes well."""
        each = AT_ONCE if READERS[self.agent.template] is read_attacks else 1
        briefs = [(rng.choice(list(self.tasks)), rng.choice(kinds_shown())) for _ in range(-(-count // each))]
        # Each call is a draw of its own: the sample's number tells equal prompts apart.
        calls = [
            Call(self.agent.model, self._prompt(task, kind, past, rng), self.agent.params, self.asked + place)
            for place, (task, kind) in enumerate(briefs)
        ]
        self.asked += len(calls)
        candidates: list[Candidate] = []
        for (task, kind), completion in zip(briefs, self._complete(calls), strict=True):
            for text in self._read(completion):
                made = self._candidate(text, task, kind)
                if made is None:
                    self.told["unusable"] += 1
                elif not past.is_new(made.text):
                    self.told["repeated"] += 1
                else:
                    candidates.append(made)
        return candidates[:count]

    def metrics(self) -> dict[str, Any]:
        """JSON-ready. unparsable: completions that were cut off or could not be read; unusable: texts that may not be
        asked, of those written."""
        counted = ("failed_calls", "unparsable", "written", "unusable", "repeated")
        flops = float(FORWARD * self.parameters * self.cost.tokens)
        used = {"writer_calls": self.cost.calls, "writer_tokens": self.cost.tokens, "flops": flops}
        return {**used, **{name: self.told[name] for name in counted}}

    def _prompt(self, task: str, kind: str, past: Past, rng: random.Random) -> str:
        levels = self.tasks[task].levels[: self.up_to + 1]
        failed = [found for found in past.archive.all() if found.task == task]
        return render(
            self.agent.template,
            kind=kind,
            questions=[sampled(self.tasks[task], levels, "train", rng) for _ in range(QUESTIONS)],
            failures=[_shown(found) for found in rng.sample(failed, min(FAILURES, len(failed)))],
            count=AT_ONCE,
            words=MAX_WORDS,
        )

    def _complete(self, calls: list[Call]) -> list[Completion]:
        """Raises StageError if the model could answer none of the calls."""
        outcomes = asyncio.run(self.dispatcher.complete(self.agent, calls))
        for outcome in outcomes:
            outcome.add_to(self.cost)
        errors = [outcome.completion.error for outcome in outcomes if outcome.completion.error is not None]
        if errors and len(errors) == len(calls):
            raise StageError(f"the writer's model answered none of {len(calls)} calls: {shortened(errors[0], 200)}")
        return [outcome.completion for outcome in outcomes]

    def _read(self, completion: Completion) -> list[str]:
        if completion.error is not None:
            self.told["failed_calls"] += 1
            return []
        try:
            if not completion.finished:
                raise ValueError("it was cut off")
            texts = READERS[self.agent.template](completion.text.strip())
        except ValueError:
            self.told["unparsable"] += 1
            return []
        self.told["written"] += len(texts)
        return texts

    def _candidate(self, text: str, task: str, kind: str) -> Candidate | None:
        words = cleaned(text)
        if words is None:
            return None
        return admitted(Candidate(words, task, f"{self.name}:{kind}"), self.tasks, self.up_to)


def _shown(found: Found) -> dict[str, str]:
    """A failure on one line: what the agent and H^A said may be long, and of any form."""
    said, right = (shortened(text, ANSWER_CHARS) for text in (found.agent_answer, found.answer))
    return {"question": found.question, "said": said, "right": right}
