"""What engines leave to others: room on a GPU, a process group that was there before, the memory of their models."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amplification.serving import vllm as module
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.checkpoint import Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.flow import Flow, Ticket
from amplification.serving.rollouts import Drawing
from amplification.serving.vllm import MOST_ENGINES, VLLMSampler

ROOT = Path(__file__).parents[3]


class Shelves(Shelf):
    """Nobody reads a folder."""

    def adapter(self, model: ModelRef) -> None:
        return None


class Counted:
    """In place of an engine, and of its queue: every call is answered with the model's name at the next step."""

    events: list[str]

    def __init__(self, settings: ServingConfig, model: ModelRef, shelf: Shelf) -> None:
        self.name, self.queue, self.waiting = model.base, self, list[Ticket]()
        self.events.append(f"open {self.name}")

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    @property
    def tickets(self) -> Any:
        return lambda flow, places, calls: [Ticket(flow, place, calls[place], []) for place in places]

    def add(self, tickets: Sequence[Ticket]) -> None:
        self.waiting += tickets

    def step(self) -> list[Ticket]:
        done, self.waiting = self.waiting, []
        for ticket in done:
            ticket.text = self.name
        return done

    def close(self) -> None:
        assert not self.waiting
        self.events.append(f"close {self.name}")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> VLLMSampler:
    """On a GPU, where whole models have an engine each."""
    Counted.events = []
    monkeypatch.setattr(module, "Engine", Counted)
    monkeypatch.setattr(module, "on_cpu", lambda: False)
    monkeypatch.setattr(module, "merges_adapters", lambda settings: False)
    sampler = VLLMSampler(ServingConfig())
    sampler._shelf = Shelves()
    return sampler


def ask(sampler: VLLMSampler, *names: str) -> list[str]:
    return [done.text for done in sampler.sample([Call(ModelRef(name), "w1", SamplingParams()) for name in names])]


def test_the_engine_asked_least_recently_makes_room(counted: VLLMSampler) -> None:
    assert MOST_ENGINES == 2
    for name in ("A0", "A1", "A0", "A2", "A0", "A2"):
        assert ask(counted, name) == [name]
    assert Counted.events == ["open A0", "open A1", "close A1", "open A2"]
    counted.close()
    assert sorted(Counted.events[-2:]) == ["close A0", "close A2"]


def test_engines_that_are_asked_together_are_open_together(counted: VLLMSampler) -> None:
    ask(counted, "A0")
    assert ask(counted, "A1", "A2", "A3", "A1") == ["A1", "A2", "A3", "A1"]
    assert Counted.events == ["open A0", "open A1", "close A0", "open A2", "open A3"]
    at_work: Any = counted._engine(ModelRef("A1"))
    at_work.add([Ticket(Flow(None), 0, Call(ModelRef("A1"), "w1", SamplingParams()), [])])
    ask(counted, "A4")
    assert Counted.events[5:] == ["close A2", "close A3", "open A4"]  # but not the one that is at work


def test_on_a_cpu_no_engine_makes_room(counted: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "on_cpu", lambda: True)
    for name in ("A0", "A1", "A2", "A3"):
        ask(counted, name)
    assert Counted.events == ["open A0", "open A1", "open A2", "open A3"]


class Sleeper:
    """In place of an engine that sleeps between batches. Asleep, a real one hangs."""

    asleep = False

    def run(self, model: ModelRef, prompts: Sequence[Sequence[int]], asked: Sequence[Any]) -> list[Any]:
        assert not self.asleep
        chosen = SimpleNamespace(logprob=-0.5)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7], logprobs=[{7: chosen}])]) for _ in prompts]

    def sleep(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False


def test_what_is_drawn_over_again_wakes_the_engine(tiny_model: Path) -> None:
    """After a batch that memory did not suffice for, with the same weights."""
    pytest.importorskip("vllm")
    from amplification.serving.vllm_rollouts import VLLMRollouts

    rollouts, engine = VLLMRollouts(ServingConfig(), str(tiny_model), 44, sleep=False), Sleeper()
    rollouts.gives_back, rollouts._engine, rollouts._model = True, engine, ModelRef("one")  # type: ignore[assignment]
    first, again = (rollouts.draw([[1]], [0], Drawing(1, 1.0, 3, 2)) for _ in range(2))
    assert first == again and engine.asleep


GROUPS = """
import sys
from pathlib import Path
from torch import distributed, ones
from amplification.serving.config import ServingConfig
from amplification.serving.rollouts import Drawing
from amplification.serving.vllm_rollouts import VLLMRollouts
base, adapter, store = sys.argv[1:]

def draw():
    rollouts = VLLMRollouts(ServingConfig(adapters="merge"), base, 44, sleep=False)
    rollouts.publish(Path(adapter))
    assert len(rollouts.draw([[1, 5, 6]], [0], Drawing(1, 1.0, 3, 2))) == 1
    rollouts.close()

draw()
assert not distributed.is_initialized()
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
draw()
distributed.all_reduce(ones(1))
distributed.barrier()
"""


def test_a_process_group_that_was_there_before_stays(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """Such as that of accelerate's launcher for a single process; the engine's own goes with it."""
    pytest.importorskip("vllm")
    command = [sys.executable, "-c", GROUPS, str(tiny_model), str(tiny_adapter), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_closed_engine_holds_nothing(tiny_model: Path) -> None:
    """Neither the model and what runs it nor keys and values, whoever still has the engine."""
    pytest.importorskip("vllm")
    from amplification.serving.vllm_engine import Engine

    engine = Engine(ServingConfig(adapters="merge", max_model_len=64), ModelRef(str(tiny_model)), Shelf())
    executor = engine._llm.llm_engine.engine_core.engine_core.model_executor
    runner = executor.driver_worker.worker.model_runner
    held = [weakref.ref(each) for each in (runner, runner.get_model(), *runner.kv_caches)]
    del executor, runner
    assert len(held) > 2 and all(each() is not None for each in held)
    engine.close()
    assert all(each() is None for each in held)
