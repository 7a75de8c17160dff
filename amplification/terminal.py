"""What models and people wrote, made safe for a terminal."""

from __future__ import annotations

from amplification.episode import Cost


def printable(text: str) -> str:
    """`text` on one line without characters that a terminal could take for commands or that reorder what is read."""
    return _safe(" ".join(text.split()))


def printable_lines(text: str) -> str:
    """The same for a text that keeps its lines and its spaces."""
    return "\n".join(_safe(line.expandtabs(4)) for line in text.split("\n"))


def shortened(text: str, most: int) -> str:
    """A printable beginning of `text`, at most so many characters of it."""
    line = printable(text[: 4 * most])
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def cost_line(cost: Cost, seconds: float) -> str:
    """One line for a person: what an episode used."""
    line = (
        f"{cost.overseer_steps} overseer steps, {cost.calls} calls, {cost.memo_hits} memo hits, "
        f"{cost.tokens} tokens, {seconds:.2f} s"
    )
    own = f"; the overseer's own: {cost.overseer_calls} calls, {cost.overseer_tokens} tokens"
    return line + own if cost.overseer_calls else line


def _safe(line: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
