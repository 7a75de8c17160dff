"""What can be done in a session besides asking: each command takes the shell and the words after its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from amplification.asking.files import export, text_of
from amplification.asking.sent import sent
from amplification.asking.view import node_page, tree_view
from amplification.episodes import SHORT, Wanted, exported, found
from amplification.errors import InputError
from amplification.overseers.decisions import Decisions
from amplification.replay import workspaces
from amplification.terminal import printable, shortened

if TYPE_CHECKING:
    from amplification.asking.shell import Shell


def _tree(shell: Shell, words: str) -> None:
    shown, number = shell.node(words or "1")
    shell.console.print(tree_view(shown.outline, number), highlight=False)


def _open(shell: Shell, words: str) -> None:
    shown, number = shell.node(words)
    answering, node = shell.answering, shown.outline[number]
    agent = answering.agent
    if agent.digest != shown.turn.agent:  # the run has gone on since
        agent = replace(agent, name="an earlier agent", digest=shown.turn.agent)
    calls = sent(node, shown.messages, agent, answering.stores.all, answering.limits.workspace_chars)
    try:
        for text in node_page(node, shown.messages, shell.references().name, calls):
            shell.say_lines(text)
    except KeyError as error:
        raise InputError(words, "it points to what is known only when the answer is finished", "/again") from error


def _reject(shell: Shell, words: str) -> None:
    shown, number = shell.node(words)
    node = shown.outline[number]
    if not node.answer.ok:
        raise InputError(words, "this node has no answer that could be rejected", "choose another, or edit it")
    shell.session.reject(node.question, node.answer)
    answer, question = shortened(node.answer.text, 60), shortened(node.question.text, 60)
    shell.say(f"rejected: '{answer}' is no answer to '{question}' any more; /again asks again")


def _edit(shell: Shell, words: str) -> None:
    name, _, text = words.partition(" ")
    shown, number = shell.node(name)
    text = printable(text)
    if not text:
        raise InputError(f"/edit {name}", "the new text is empty", f"write what is asked instead: /edit {name} TEXT")
    node = shown.outline[number]
    # What H asked, or the person: a second edit takes the place of the first.
    asked = shown.turn.question if number == 1 else node.asked or node.question
    shell.session.edit(asked, text)
    shell.say(f"edited: '{shortened(text, 60)}' in place of '{shortened(asked.text, 60)}'; /again asks again")


def _again(shell: Shell, words: str) -> None:
    turns = shell.session.turns()
    if not words and not turns:
        raise InputError("/again", "nothing has been asked yet", "type a question")
    turn = shell.turn(words) if words else (shell.shown.turn if shell.shown else turns[-1])
    shell.answer(turn.typed, turn.question)


def _direct(shell: Shell, words: str) -> None:
    if words:
        question = shell.references().question(words)
    elif shell.shown is not None:
        question = shell.shown.turn.question
    else:
        raise InputError("/direct", "nothing has been asked yet", "write a question after it")
    shell.direct(question)


def _attach(shell: Shell, words: str) -> None:
    if not words:
        raise InputError("/attach", "no file is named", "write /attach FILE")
    attached = shell.session.attach(Path(words).name, text_of(Path(words)))
    shell.say(f"${attached.number} is {attached.file}, {attached.size} characters")


def _list(shell: Shell, words: str) -> None:
    session = shell.session
    for attachment in session.attachments():
        shell.say(f"${attachment.number}  {attachment.file}, {attachment.size} characters")
    for turn in session.turns():
        if turn.episode is None:
            shell.say(f"a{turn.number}  {shortened(turn.typed, 100)}  (not finished)")
            continue
        summary, _ = found([session.store], turn.episode)
        said = summary.answer if summary.failure is None else f"[no answer: {summary.failure}]"
        shell.say(
            f"a{turn.number}  {shortened(turn.typed, 100)}  {shortened(said, 60)}  (episode {turn.episode[:SHORT]})"
        )
    for made in session.corrected():
        text, question = shortened(made.text, 60), shortened(made.question.text, 60)
        shell.say(f"{made.kind}  '{text}' {'as an answer to' if made.kind == 'reject' else 'in place of'} '{question}'")


def _undo(shell: Shell, words: str) -> None:
    taken = shell.session.undo()
    if taken is None:
        raise InputError("/undo", "nothing has been corrected", "/reject and /edit correct")
    shell.say(f"taken back: {taken.kind} '{shortened(taken.text, 60)}'")


def _forget(shell: Shell, words: str) -> None:
    shown, number = shell.node(words)
    decisions = Decisions(shell.session.store, shell.answering.overseer().name)
    shows = workspaces(shown.outline[number], shown.messages)
    forgotten = sum(decisions.forget(workspace) for workspace, _ in shows)
    shell.say(f"{forgotten} decisions forgotten; /again asks for them again")


def _export(shell: Shell, words: str) -> None:
    if not words:
        raise InputError("/export", "no file is named", "write /export FILE")
    records = exported([shell.session.store], Wanted(scope=f"ask/{shell.session.name}"))
    path, count = export(shell.run_folder, words, records)
    shell.say(f"{count} episodes written to {path}")


def _help(shell: Shell, words: str) -> None:
    for name, command in COMMANDS.items():
        shell.say_lines(f"  {f'/{name} {command.takes}'.strip():<22}{command.does}")
    shell.say("In a question, $1 stands for an attachment and $a1 for an answer; one that begins with / is typed //.")


class Command(NamedTuple):
    """A command's function, the words it takes and what it does."""

    do: Callable[[Shell, str], None]
    takes: str
    does: str


COMMANDS = {
    "open": Command(_open, "N", "what was sent at node N, exactly, and what came back"),
    "tree": Command(_tree, "[N | aM]", "the tree again, from node N on; that of answer M"),
    "reject": Command(_reject, "N", "this answer may not be given again; then /again"),
    "edit": Command(_edit, "N TEXT", "ask TEXT in place of node N's question; then /again"),
    "undo": Command(_undo, "", "take the last reject or edit back"),
    "again": Command(_again, "[aM]", "ask again; only what a correction changed costs anything"),
    "direct": Command(_direct, "[QUESTION]", "ask the agent alone"),
    "attach": Command(_attach, "FILE", "a text file to point to in questions"),
    "list": Command(_list, "", "attachments, answers and corrections of this session"),
    "export": Command(_export, "FILE", "this session's episodes as JSON Lines, in the run's exports folder"),
    "forget": Command(_forget, "N", "forget what you decided at node N (with --overseer human)"),
    "help": Command(_help, "", "this list"),
    "quit": Command(lambda shell, words: None, "", "leave; --session carries on later"),
}
