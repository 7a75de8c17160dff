"""The agents of a run behind one sampler, and the ways to ask them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from amplification.agent import Agent
from amplification.amplified import Amplified
from amplification.dispatch import Dispatcher
from amplification.episode import Cost
from amplification.memo import Memo
from amplification.overseers.alone import LoneOverseer
from amplification.overseers.opening import Parts, open_overseer
from amplification.question import Answer, Question
from amplification.serving import Samplers
from amplification.serving.base import ModelRef
from amplification.serving.config import ServingConfig
from amplification.store import Store
from amplification.tasks import task
from distill.config import RunConfig
from distill.judgement import Judge

Ask = Callable[[Sequence[str]], list[Answer]]


class Models:
    """Opens serving back ends when they are first needed and keeps them, except where a training needs their memory."""

    def __init__(self, config: RunConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.tasks = {name: task(name) for name in config.tasks}
        self.samplers = Samplers()

    def rest(self) -> None:
        """Leave the GPU to a training: what is asked next loads its model again. On a CPU nothing is in the way."""
        import torch

        if torch.cuda.is_available():
            self.samplers.rest()

    def close(self) -> None:
        """Give back the model's memory and the database."""
        self.samplers.close()
        self.store.close()

    def agent(self, name: str, base: Path, adapter: Path | None) -> Agent:
        """The agent of a base folder and an adapter folder (with full fine-tuning the "adapter" is a whole model)."""
        if adapter is None:
            return Agent.load(name, ModelRef(str(base)))
        if self.config.distill.adapter.method == "full":
            return Agent.load(name, ModelRef(str(adapter)))
        return Agent.load(name, ModelRef(str(base), str(adapter)))

    def dispatcher(self, scope: str, serving: ServingConfig | None = None) -> Dispatcher:
        """The way to the agents, or to models that are served elsewhere, on behalf of the stage `scope`."""
        return Dispatcher(self.samplers.get(serving or self.config.serving), Memo(self.store, scope))

    def judge(self, agent: Agent, scope: str, alone: bool = False) -> Judge:
        """H^A with this agent, asked on behalf of the stage `scope`; `alone`: H without any, whatever `agent` is."""
        config, dispatcher = self.config, self.dispatcher(scope)

        def served(serving: ServingConfig) -> Dispatcher:
            return dispatcher if serving == config.serving else self.dispatcher(scope, serving)

        overseer = open_overseer(config.overseer, Parts(self.tasks, config.limits, config.serving, served))
        if alone:
            overseer = LoneOverseer(overseer)
        return Judge(Amplified(overseer, agent, dispatcher, config.limits, config.voting), scope)

    def asker(self, agent: Agent, scope: str, cost: Cost | None = None) -> Ask:
        """The agent alone as a function from questions to answers; adds what it used to `cost`."""
        dispatcher = self.dispatcher(scope)

        def ask(texts: Sequence[str]) -> list[Answer]:
            answered = asyncio.run(dispatcher.answers(agent, [Question(text) for text in texts]))
            if cost is not None:
                for _, outcome in answered:
                    cost.add(outcome.cost())
            return [answer for answer, _ in answered]

        return ask
