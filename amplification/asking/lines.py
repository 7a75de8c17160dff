"""Lines that a person types: with editing at the prompt, and without blocking the event loop during an episode."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

CHUNK = 65_536


class Lines:
    """Standard input, line by line, for all who read from it in this process.

    At a terminal the prompt has readline's editing and history. What is piped in is read here alone, since two readers
    with buffers of their own would take each other's lines.
    """

    def __init__(self) -> None:
        self.terminal = sys.stdin.isatty()
        self._buffer = b""
        self._ended = False
        if self.terminal:
            with suppress(ImportError):
                import readline

                readline.set_auto_history(True)

    def remember(self, lines: list[str]) -> None:
        """Put lines into the history, oldest first."""
        if self.terminal:
            with suppress(ImportError):
                import readline

                for line in lines:
                    readline.add_history(line)

    def read(self, prompt: str) -> str:
        """The next line. Raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""
        if self.terminal:
            return input(prompt)
        print(prompt, end="", flush=True)
        while (line := self._taken()) is None:
            self._fill()
        return line

    async def read_beside(self, prompt: str) -> str:
        """The next line, while other coroutines go on; the terminal's own editing. Raises EOFError at the end.

        A cancelled read takes nothing: it waits until a line is there before it reads.
        """
        print(prompt, end="", flush=True)
        while (line := self._taken()) is None:
            await self._readable()
            self._fill()
        return line

    async def _readable(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
        ready = loop.create_future()

        def is_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(descriptor, is_ready)
        except PermissionError:  # an ordinary file never has to be waited for
            return
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)

    def _fill(self) -> None:
        chunk = os.read(sys.stdin.fileno(), CHUNK)
        self._ended = not chunk
        self._buffer += chunk

    def _taken(self) -> str | None:
        """A whole line from what was read, None if there is none yet."""
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline and not self._ended:
            return None
        if not newline and not line:
            self._ended = False  # Ctrl-D ends one reading, not the terminal
            raise EOFError
        self._buffer = rest
        return line.decode("utf-8", "replace").rstrip("\r")
