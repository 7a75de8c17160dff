"""Muon takes the steps that torch's takes, one matrix at a time."""

from __future__ import annotations

from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from distill import muon
from distill.muon import Muon, orthogonalized

SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (1, 8), (24, 8), (8, 8)]


def matrices(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def slope(parameters: list[torch.nn.Parameter], seed: int, without: int) -> None:
    """A gradient for each but one."""
    generator = torch.Generator().manual_seed(seed)
    for place, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if place == without else gradient


@pytest.fixture
def _as_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "multiplied_in", lambda device: torch.bfloat16)


@pytest.mark.usefixtures("_as_torch_multiplies")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_torchs(decay: float) -> None:
    mine, theirs = matrices(0), matrices(0)
    groups = [[{"params": each[:5], "lr": 0.02}, {"params": each[5:], "lr": 0.1}] for each in (mine, theirs)]
    ours = Muon(groups[0], lr=1e-3, weight_decay=decay)
    oracle = torch.optim.Muon(groups[1], lr=1e-3, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: 1 / (1 + step)) for each in (ours, oracle)]
    for step in range(4):
        for parameters, optimizer, schedule in zip((mine, theirs), (ours, oracle), schedules, strict=True):
            slope(parameters, step, without=step)
            optimizer.step()
            schedule.step()
    for one, other, begun in zip(mine, theirs, matrices(0), strict=True):
        assert not torch.equal(one, begun)
        assert torch.allclose(one, other, atol=1e-3)  # a step's direction is in bfloat16
    assert [ours.state[p]["momentum_buffer"].shape for p in mine] == [p.shape for p in mine]


@pytest.mark.usefixtures("_as_torch_multiplies")
def test_a_state_is_torchs() -> None:
    """So states that were written with one are read with the other."""
    mine, theirs = matrices(0), matrices(0)
    ours = Muon(mine, lr=0.02, weight_decay=0.0)
    oracle = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(2):
        slope(theirs, step, without=-1)
        oracle.step()
    ours.load_state_dict(deepcopy(oracle.state_dict()))
    for one, other in zip(mine, theirs, strict=True):
        one.data.copy_(other.data)
    for parameters, optimizer in ((mine, ours), (theirs, oracle)):
        slope(parameters, 2, without=-1)
        optimizer.step()
    assert all(torch.allclose(one, other, atol=1e-3) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (2, 16, 48)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    """Jordan (2024): the coefficients bring them between about 0.7 and 1.2; matrices do not mix."""
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    given[0] *= 1e3
    found = orthogonalized(given, (3.4445, -4.7750, 2.0315), 8, 1e-7).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.3
    alone = orthogonalized(given[:1], (3.4445, -4.7750, 2.0315), 8, 1e-7).float()
    assert torch.allclose(found[:1], alone, atol=1e-2)


def test_both_ways_to_multiply_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision, where a processor only imitates bfloat16, brings nearly the same direction."""
    given, found = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)), []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(muon, "multiplied_in", lambda device, dtype=dtype: dtype)
        found.append(orthogonalized(given, (3.4445, -4.7750, 2.0315), 5, 1e-7).flatten(1).float())
        assert torch.linalg.svdvals(found[-1].view_as(given)).max() < 1.3
    assert torch.nn.functional.cosine_similarity(found[0], found[1]).min() > 0.99


def test_what_has_no_slope_goes_nowhere() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([parameter], lr=1.0, weight_decay=0.0).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def stepped(processes: int) -> list[torch.nn.Parameter]:
    """After three steps of two groups, in one of which a matrix has no gradient now and then."""
    parameters = matrices(0)
    groups = [{"params": parameters[:5], "lr": 0.02}, {"params": parameters[5:], "lr": 0.1}]
    optimizer = Muon(groups, lr=1e-3, weight_decay=0.1, processes=processes)
    for step in range(3):
        slope(parameters, step, without=2 * step)
        optimizer.step()
    return parameters


def step_as_one_of(rank: int, processes: int, folder: str) -> None:
    """What each process does; `folder` gets its matrices."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save([each.detach() for each in stepped(processes)], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_the_work(tmp_path: Path) -> None:
    """Three, so that neither the eight-by-eights nor all seven matrices go evenly to them."""
    given = [(rank, 3, str(tmp_path)) for rank in range(3)]
    started = [get_context("spawn").Process(target=step_as_one_of, args=each) for each in given]
    for process in started:
        process.start()
    for process in started:
        process.join()
    alone = stepped(1)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(alone, found, strict=True))
