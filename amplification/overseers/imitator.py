"""ImitatingOverseer: a model that takes the steps another overseer would take, where it is sure of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from amplification.agent import Agent
from amplification.dispatch import Dispatcher
from amplification.errors import InputError
from amplification.overseer import Decision, Overseer, Use
from amplification.overseers.language_model import LanguageModelOverseer
from amplification.question import digest
from amplification.serving.base import ModelRef, SamplingParams
from amplification.workspace import Workspace

# Written beside an imitator's weights by whoever trained it.
IMITATOR_FILE = "imitator.json"

TEMPLATE = "step_short"

# How the name begins under which an imitator's own decisions are recorded.
IMITATOR = "imitator:"


class ImitatingOverseer(Overseer):
    """Takes the imitator's step if the probability that it gave to what it wrote is at least `threshold`; otherwise, or
    where that is no action, the real overseer is asked. `Decision.by` is the name of the one who decided.

    `imitated` and `asked` count the steps of each.
    """

    def __init__(self, agent: Agent, dispatcher: Dispatcher, most_chars: int, threshold: float, real: Overseer) -> None:
        """Raises ValueError for an agent that is not asked for its log-probabilities."""
        if not agent.params.logprob:
            raise ValueError("an imitator's sampling must ask for log-probabilities")
        self.model = LanguageModelOverseer(agent, dispatcher, most_chars)
        self.threshold, self.real = threshold, real
        self.by = f"{IMITATOR}{digest(agent.digest, agent.template, agent.params.key())[:12]}"
        self.name = f"{self.by}>={threshold:g}|{real.name}"
        self.imitated = self.asked = 0

    def bound(self, workspace: Workspace) -> Use:
        return self.model.bound_once(workspace).plus(self.real.bound(workspace))

    async def act(self, workspace: Workspace) -> Decision:
        action, written, used = await self.model.attempt(workspace)
        sure = written.logprob is not None and math.exp(min(written.logprob, 0.0)) >= self.threshold
        if sure and not isinstance(action, str):
            self.imitated += 1
            return Decision(action, self.by, used)
        self.asked += 1
        decision = await self.real.act(workspace)
        return Decision(decision.action, decision.by or self.real.name, used.plus(decision.used))


def imitator_agent(folder: Path) -> tuple[Agent, float]:
    """The model of an imitator's folder and its threshold. Raises InputError if the folder holds no imitator."""
    path = folder / IMITATOR_FILE
    remedy = "give a folder that 'amplify imitate' has written"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        threshold, max_tokens = float(record["threshold"]), int(record["max_tokens"])
    except OSError as error:
        raise InputError(path, "there is no imitator here", remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, "the imitator's record is damaged", remedy) from error
    params = SamplingParams(max_tokens=max_tokens, logprob=True)
    loaded = Agent.load("imitator", ModelRef(str(folder)), params)
    return replace(loaded, template=TEMPLATE), threshold
