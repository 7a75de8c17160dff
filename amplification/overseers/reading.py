"""An overseer that reads what a question points to, where the overseer it adds to does not understand pointers."""

from __future__ import annotations

from amplification.overseer import NOT_UNDERSTOOD, Decision, Overseer, Use
from amplification.question import Question, with_pointers
from amplification.workspace import Action, Ask, GiveUp, Look, Reply, Seen, SubQuestion, Workspace


class ReadingOverseer(Overseer):
    """Looks at each message that the question points to, and asks a copy of H^A the question with their texts in it.

    Only where `inner` does not understand the question as it is; all else is `inner`'s.
    """

    def __init__(self, inner: Overseer) -> None:
        self.inner = inner
        self.name = f"reading:{inner.name}"

    def bound(self, workspace: Workspace) -> Use:
        return self.inner.bound(workspace)

    async def act(self, workspace: Workspace) -> Decision:
        decision = await self.inner.act(workspace)
        if not workspace.question.pointers or decision.action != GiveUp(NOT_UNDERSTOOD):
            return decision
        return Decision(_read(workspace), used=decision.used)


def _read(workspace: Workspace) -> Action:
    question = workspace.question
    texts = {event.pointer: event.text for event in workspace.events if isinstance(event, Seen)}
    for pointer in question.pointers:
        if pointer not in texts:
            return Look(pointer)
    if not workspace.exchanges:
        number = next((n for n, (p, size) in enumerate(workspace.pointers, 1) if len(texts.get(p, "")) < size), None)
        if number is not None:
            return GiveUp(f"what ${number} stands for is too long to be read at once")
        words = with_pointers(question.text, len(question.pointers), lambda n: texts[question.pointers[n - 1]])
        return Ask((SubQuestion(Question(" ".join(words.split())), recurse=True),))
    answer = workspace.exchanges[-1].answer
    return Reply(answer.text, answer.pointers) if answer.ok else GiveUp(answer.failure or "")
