"""LanguageModelOverseer: H as a language model that reads a workspace and writes one JSON action."""

from __future__ import annotations

from functools import cached_property

from amplification.agent import Agent
from amplification.dispatch import Dispatcher, Outcome
from amplification.errors import InputError
from amplification.overseer import Decision, Overseer, Use
from amplification.overseers.notation import NotationError, parse_action, workspace_text
from amplification.overseers.numbering import plain, shortened
from amplification.question import digest
from amplification.serving.base import Call, Completion
from amplification.workspace import Action, GiveUp, Workspace
from prompts import render

# How much of what was no action is shown when it is asked for again.
SAID_CHARS = 500
# Bytes that the second prompt has more than the first, at most: what was said, the reason, and the words around them.
AGAIN_BYTES = 4 * SAID_CHARS + 2_000


class LanguageModelOverseer(Overseer):
    """What the model writes that is no action, or that refers to what is not there, is asked for once more with the
    reason; after that it is a GiveUp. Nothing is guessed.

    `asked_again` and `given_up` count the steps at which that happened.
    """

    def __init__(self, agent: Agent, dispatcher: Dispatcher, most_chars: int) -> None:
        """`agent` names the model, how it is sampled, and the template that shows it a workspace; an action has at most
        `most_chars` characters."""
        self.agent, self.dispatcher, self.most_chars = agent, dispatcher, most_chars
        self.name = f"language_model:{digest(agent.digest, agent.template, agent.params.key())[:12]}"
        self.asked_again = self.given_up = 0

    def bound(self, workspace: Workspace) -> Use:
        once = self.bound_once(workspace)
        return once.plus(once).plus(Use(0, AGAIN_BYTES))

    def bound_once(self, workspace: Workspace) -> Use:
        """The most that `attempt` may use."""
        # A token is at least one byte, so bytes bound a call's tokens, special ones included.
        return Use(1, len(self._prompt(workspace).encode()) + self.agent.params.max_tokens + 2)

    async def attempt(self, workspace: Workspace) -> tuple[Action | str, Completion, Use]:
        """What the model writes when it is asked once, read; what it wrote; what it used."""
        outcome, used = await self._ask(self._prompt(workspace))
        return self.read(outcome.completion, workspace), outcome.completion, used

    async def act(self, workspace: Workspace) -> Decision:
        action, written, used = await self.attempt(workspace)
        if isinstance(action, str) and written.error is None:
            self.asked_again += 1
            said = plain(written.text[:SAID_CHARS])
            prompt = render("again", prompt=self._prompt(workspace), said=said, reason=action)
            second, more = await self._ask(prompt)
            action, used = self.read(second.completion, workspace), used.plus(more)
        if isinstance(action, str):
            self.given_up += 1
            return Decision(GiveUp(f"the overseer's model wrote no action: {action}"), used=used)
        return Decision(action, used=used)

    def read(self, completion: Completion, workspace: Workspace) -> Action | str:
        """What the model wrote as an action, or one line that says why it is none."""
        if completion.error is not None:
            return shortened(completion.error, SAID_CHARS)
        if not completion.finished:
            return f"it was cut off after {completion.completion_tokens} tokens; write a shorter one"
        try:
            return parse_action(completion.text, workspace, self.most_chars)
        except NotationError as error:
            return str(error)

    def _prompt(self, workspace: Workspace) -> str:
        return render(self.agent.template, workspace=workspace_text(workspace))

    async def _ask(self, prompt: str) -> tuple[Outcome, Use]:
        [outcome] = await self.dispatcher.complete(self.agent, [Call(self.agent.model, prompt, self.agent.params)])
        cost, size = outcome.cost(), self._parameters
        if size is None:
            return outcome, Use(cost.calls, cost.tokens, unpriced=cost.tokens + cost.tokens_saved)
        return outcome, Use(cost.calls, cost.tokens, size * cost.tokens, size * cost.tokens_saved)

    @cached_property
    def _parameters(self) -> int | None:
        """How many the model has; None where neither a setting nor a folder tells."""
        try:
            return self.dispatcher.sampler.parameters(self.agent.model)
        except InputError:
            return None
