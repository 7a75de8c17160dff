"""Weights in pieces: put together and shared out again, and whole ones left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from distill.sharding import shared_out, whole, whole_weights


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of this process alone; a serving back end that another test opened may have made its group already."""
    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    if mine:
        distributed.destroy_process_group()


def test_pieces_are_put_together_and_shared_out_as_before(mesh: DeviceMesh) -> None:
    numbers = torch.arange(12.0).view(4, 3)
    pieces = distribute_tensor(numbers, mesh, [Shard(0)])
    assert not isinstance(whole(pieces), DTensor) and torch.equal(whole(pieces), numbers)
    again = shared_out(numbers + 1, pieces)
    assert isinstance(again, DTensor) and again.placements == pieces.placements
    assert torch.equal(whole(again), numbers + 1)


def test_a_model_in_pieces_gives_whole_weights(mesh: DeviceMesh) -> None:
    model = torch.nn.Linear(3, 4)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.weight = torch.nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(0)]))
    found = whole_weights(model)
    assert found is not None and set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model.bias.requires_grad_(False)  # a frozen base is on disk already
    assert set(whole_weights(model) or ()) == {"weight"}


def test_what_is_whole_stays_as_it_is() -> None:
    tensor = torch.ones(2)
    assert shared_out(tensor, torch.zeros(2)) is tensor
    assert torch.equal(whole(tensor), tensor)
    assert whole_weights(torch.nn.Linear(2, 2)) is None
