"""The garbage collector while episodes run: young objects as ever, everything only rarely.

An episode is a tree that grows to millions of objects, all in use and none in a cycle. Python looks through all of them
each time their number has grown by a quarter: more than half of an episode's time, in which it never found anything.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# New objects until the youngest are looked through, and how many times that until the middle ones and all are: the
# youngest while they are still in the processor's cache, all once in a hundred million. What is in a cycle and old when
# it is let go waits that long, or for the episode's end.
THRESHOLDS = (2_000, 3_000, 20)

_lock = threading.Lock()
_running = 0
_before = gc.get_threshold()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect rarely inside; as before when the last who is inside leaves. A collector that is off stays off."""
    global _running, _before
    with _lock:
        if _running == 0:
            _before = gc.get_threshold()
            if _before[0]:
                gc.set_threshold(*THRESHOLDS)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                gc.set_threshold(*_before)
