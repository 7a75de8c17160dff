"""The person at the terminal, as the overseer that `amplification.overseers.human` asks."""

from __future__ import annotations

from rich.console import Console

from amplification.asking.lines import Lines
from amplification.terminal import printable_lines


class TerminalPerson:
    """Shows texts on a console and reads lines from standard input."""

    def __init__(self, console: Console, lines: Lines) -> None:
        self.console, self.lines = console, lines

    def show(self, text: str) -> None:
        self.console.print(printable_lines(text), markup=False, highlight=False, soft_wrap=True)

    async def line(self, prompt: str) -> str:
        return await self.lines.read_beside(prompt)
