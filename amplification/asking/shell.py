"""Shell: a session in a terminal. What begins with `/` is a command, all else is a question."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from amplification.asking.answering import Answering
from amplification.asking.commands import COMMANDS
from amplification.asking.lines import Lines
from amplification.asking.outline import Outline
from amplification.asking.references import References
from amplification.asking.session import ONCE, Session, Turn
from amplification.asking.view import tree_view
from amplification.asking.watch import Watcher
from amplification.episode import Episode
from amplification.episodes import found
from amplification.errors import AmplifyError, InputError
from amplification.messages import Messages
from amplification.question import Question
from amplification.terminal import cost_line, printable, printable_lines, shortened

PROMPT = "> "


class Shown(NamedTuple):
    """The tree that numbers refer to."""

    turn: Turn
    outline: Outline
    messages: Messages


class Shell:
    """Reads lines and does what they say. A mistake is told in one line, and the session goes on."""

    def __init__(
        self,
        run: Path,
        session: Session,
        answering: Answering,
        understands: Callable[[Question], bool],
        console: Console,
        lines: Lines,
    ) -> None:
        """`understands`: whether A may be asked anything for a question; where not, no model is opened."""
        self.run_folder, self.session, self.answering = run, session, answering
        self.understands, self.console, self.lines = understands, console, lines
        self.shown: Shown | None = None

    def run(self) -> None:
        """Until the person leaves: /quit, Ctrl-D, or Ctrl-C at the prompt."""
        self._greet()
        while True:
            try:
                line = self.lines.read(PROMPT).strip()
            except (EOFError, KeyboardInterrupt):
                self.console.print()
                break
            if line in ("/quit", "/exit"):
                break
            if line:
                self.do(line)
        self.say(f"left; carry on with: amplify ask --run {self.run_folder} --session {self.session.name}")

    def do(self, line: str) -> None:
        """One line: a command or a question."""
        try:
            if not line.startswith("/") or line.startswith("//"):
                self.ask(line[1:] if line.startswith("//") else line)
                return
            name, _, words = line[1:].partition(" ")
            if name not in COMMANDS:
                close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
                hint = f"did you mean /{close[0]}?" if close else "/help lists them"
                raise InputError(f"/{name}", "there is no such command", f"{hint} (a question may begin with //)")
            COMMANDS[name].do(self, words.strip())
        except AmplifyError as error:
            self.say(str(error))
        except SQLAlchemyError as error:
            # Its own words alone: the error's text holds the whole row, which may be a large file.
            reason = shortened(str(getattr(error, "orig", error)), 200)
            self.say(f"{self.session.store.url.removeprefix('sqlite:///')}: the store failed ({reason}); try again")
        except KeyboardInterrupt:
            self.say("stopped")

    def ask(self, typed: str) -> None:
        """Answer a question while it is watched, and show its tree."""
        self.answer(typed, self.references().question(typed))

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(printable_lines(" ".join(text.splitlines())), markup=False, highlight=False, soft_wrap=True)

    def say_lines(self, text: str) -> None:
        """A text of several lines."""
        self.console.print(printable_lines(text), markup=False, highlight=False, soft_wrap=True)

    def answer(self, typed: str, question: Question) -> bool:
        """The same for a question whose references are resolved already; says whether it was not stopped."""
        corrections = self.session.corrections()
        asked = corrections.asked(question)
        known, watcher = self.session.messages(asked.pointers), Watcher(self.answering.limits)
        turn = self.session.begin(typed, question, self.answering.agent.digest)
        consults = self.understands(asked)
        starts = consults and not self.answering.is_open
        try:
            episode = self.answering.answer(asked, known, self.console, watcher, corrections, consults)
        except (KeyboardInterrupt, EOFError):
            self._stopped(turn, watcher, Messages(known.values()))
            return False
        self._show(self.session.end(turn, episode), episode)
        self.say(cost_line(episode.cost, episode.seconds) + (" with the model's start" if starts else ""))
        return True

    def direct(self, question: Question) -> None:
        """Ask the agent alone; nothing of it is kept but the memo."""
        starts = not self.answering.is_open
        answer, cost, seconds = self.answering.alone(question, self.session.messages(question.pointers))
        self.say(f"{self.answering.agent.name}: {answer.shown()}")
        self.say(cost_line(cost, seconds) + (" with the model's start" if starts else ""))

    def _stopped(self, turn: Turn, watcher: Watcher, messages: Messages) -> None:
        self.console.print()
        if watcher.root is not None:
            self.shown = Shown(turn, Outline(watcher.root), messages)
            self.console.print(tree_view(self.shown.outline), highlight=False)
            self.say(cost_line(watcher.cost, watcher.seconds))
        if self.session.name != ONCE:
            self.say(f"a{turn.number} was stopped; what was answered is kept, and /again carries on")

    def _show(self, turn: Turn, episode: Episode) -> None:
        self.shown = Shown(turn, Outline(episode.tree), Messages(episode.messages.values()))
        self.console.print(tree_view(self.shown.outline), highlight=False)
        number = f"a{turn.number}, " if self.session.name != ONCE else ""
        self.say(f"{number}H^{self.answering.agent.name}: {episode.answer.shown()}")

    def _greet(self) -> None:
        self.say(f"session {self.session.name}; type a question, or /help")
        if self.answering.stores.lacking:
            self.say(f"note: {self.answering.stores.lacking}; what the run answered is asked again")
        turns = self.session.turns()
        self.lines.remember([turn.typed for turn in turns])
        if not turns:
            return
        last = turns[-1]
        self.say(f"{len(turns)} questions so far; /list shows them")
        if last.episode is None:
            self.say(f"a{last.number} was not finished: {last.typed}; /again carries on")
        else:
            self.recall(last)

    def references(self) -> References:
        """What a question can point to now."""
        return References(self.session.attachments(), self.session.turns())

    def recall(self, turn: Turn) -> Shown:
        """The tree of an answer; from now on numbers refer to it."""
        if turn.episode is None:
            if self.shown is not None and self.shown.turn.number == turn.number:
                return self.shown  # stopped a moment ago: its tree is still there
            raise InputError(f"a{turn.number}", "it was not finished", f"/again a{turn.number} carries on")
        _, episode = found([self.session.store], turn.episode)
        self.shown = Shown(turn, Outline(episode.tree), Messages(episode.messages.values()))
        return self.shown

    def turn(self, name: str) -> Turn:
        """The answer called `a3` or `3`. Raises InputError if there is none."""
        number = name.removeprefix("a")
        turn = self.session.turn(int(number)) if number.isdecimal() and len(number) < 10 else None
        if turn is None:
            raise InputError(printable(name), "there is no such answer", "/list shows the answers there are")
        return turn

    def node(self, words: str) -> tuple[Shown, int]:
        """The node that `3` (of the tree shown last), `a2.3` or `a2` (its root) names. Raises InputError for none."""
        answer, dot, number = words.rpartition(".") if words.startswith("a") else ("", "", words)
        if words.startswith("a") and not dot:
            answer, number = words, "1"
        shown = self.recall(self.turn(answer)) if answer else self.shown
        if shown is None:
            raise InputError(words or "a number", "no tree is shown", "ask something, or give a2.3 for node 3 of a2")
        most = len(shown.outline)
        if not (number.isdecimal() and len(number) < 10 and 1 <= int(number) <= most):
            raise InputError(words or "a number", "there is no such node", f"give a number from 1 to {most}")
        return shown, int(number)
