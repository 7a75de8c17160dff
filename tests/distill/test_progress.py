"""What a run tells while it works."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from distill.progress import TerminalReporter


def test_a_stage_that_ended_early_says_so_and_one_that_did_not_says_nothing() -> None:
    out = StringIO()
    reporter = TerminalReporter(Console(file=out, width=200))
    for name, ended in (("one", True), ("two", False)):
        reporter.started(name)
        metrics = {"kl": 0.12345, "throttled": ended, "collapsed": False, "failures_found": 0, "unreadable": int(ended)}
        reporter.finished(name, 1.0, metrics)
    first, second = (line for line in out.getvalue().splitlines() if "done in" in line)
    assert first.endswith("(failures_found 0, kl 0.123, throttled, unreadable 1)")
    assert second.endswith("(failures_found 0, kl 0.123)")
