"""Slots: how many workspaces are worked on at once. The newest waits least, so trees are gone through in depth."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Slots:
    """`async with slots:` holds one of `count`.

    Whoever waits for others to finish lends its slot (`with slots.lent():`), so that a tree of any depth goes on. In
    depth first means that of a tree of 100,000 calls only a few thousand nodes are unfinished at any time.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self._waiting: list[asyncio.Future[None]] = []
        self._lent = _Lent(self)

    async def __aenter__(self) -> None:
        if self.free > 0:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the turn had just come
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give()

    def lent(self) -> _Lent:
        """Give the held slot away inside. It is taken back at once, though for a moment there is then one too many:
        to wait for it could not be cancelled cleanly."""
        return self._lent

    def _give(self) -> None:
        self.free += 1
        while self.free > 0 and self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                self.free -= 1
                turn.set_result(None)


class _Lent:
    """What `Slots.lent` gives to `with`: the same for all, since it knows nothing of who lends."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def __enter__(self) -> None:
        self._slots._give()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.free -= 1
