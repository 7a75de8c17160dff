"""PPO's state on disk: half written, of another training, or on a disk that is full."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amplification.errors import StageError
from distill import ppo_state
from distill.config import PPOSettings
from distill.ppo import train_ppo
from distill.ppo_state import STATE, TENSORS, State
from distill.practice import Prompt
from tests.distill.training import LINEAR, digits, silent

SETTINGS = PPOSettings(episodes=128, batch=32, critic_warmup=0, learning_rate=1e-3, checkpoint_seconds=0)


def state_of(update: int, size: int = 4) -> State:
    return State({"model.w": torch.full((size,), float(update))}, {"update": update})


@pytest.mark.parametrize("damage", ["tensors cut", "tensors gone", "values cut", "values gone"])
def test_a_half_written_state_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    for update in (1, 2):
        ppo_state.write(tmp_path, update, state_of(update))
    what, how = damage.split()
    file = tmp_path / "update-2" / (TENSORS if what == "tensors" else STATE)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:9])
    with pytest.warns(RuntimeWarning, match=r"update-2: this state is damaged"):
        found = ppo_state.latest(tmp_path)
    assert found is not None
    assert found.values == {"update": 1}
    assert found.tensors["model.w"].tolist() == [1.0] * 4


def test_only_the_newest_states_are_kept_and_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "update-1.partial").mkdir()
    for update in (1, 2, 3):
        ppo_state.write(tmp_path, update, state_of(update))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-2", "update-3"]


def test_a_full_disk_is_told_and_the_last_state_is_kept(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond 4 kB."""

    def write() -> None:
        ppo_state.write(tmp_path, 1, state_of(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))
        with pytest.raises(StageError, match=r"cannot be written .*the state after 1 updates is kept, make room"):
            ppo_state.write(tmp_path, 2, state_of(2, size=10_000))

    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["update-1"]
    found = ppo_state.latest(tmp_path)
    assert found is not None and found.values == {"update": 1}


def test_a_state_of_another_training_is_refused_and_left_alone(
    base: Path, warm: Path, reward: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    train_ppo(base, warm, reward, digits(), LINEAR, SETTINGS, tmp_path / "one", 1, silent, state)
    kept = sorted(path.name for path in state.iterdir())
    for start, seed in ((None, 1), (warm, 2)):  # from another agent, with another seed
        with pytest.raises(StageError, match="another training; delete this folder to begin again"):
            train_ppo(base, start, reward, digits(), LINEAR, SETTINGS, tmp_path / "two", seed, silent, state)
    assert sorted(path.name for path in state.iterdir()) == kept
    assert not (tmp_path / "two").exists()


def test_a_state_of_other_groups_or_answers_is_refused(base: Path, reward: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"

    def trained(name: str, group: str, answer: str | None) -> None:
        prompts = [Prompt(text, group, answer) for text in digits()]
        train_ppo(base, None, reward, prompts, LINEAR, SETTINGS, tmp_path / name, 1, silent, state)

    trained("one", "summing/1", "7")
    for group, answer in (("summing/2", "7"), ("summing/1", "8"), ("summing/1", None)):
        with pytest.raises(StageError, match="another training; delete this folder to begin again"):
            trained("two", group, answer)
    trained("three", "summing/1", "7")


def test_a_state_of_another_reward_model_is_refused(base: Path, reward: Path, tmp_path: Path) -> None:
    other, state = tmp_path / "reward", tmp_path / "state"
    shutil.copytree(reward, other)
    heads = other / "member-0" / "model.safetensors"
    save_file({name: t * 1.5 if "score" in name else t for name, t in load_file(heads).items()}, heads)
    train_ppo(base, None, reward, digits(), LINEAR, SETTINGS, tmp_path / "one", 1, silent, state)
    with pytest.raises(StageError, match="another training; delete this folder to begin again"):
        train_ppo(base, None, other, digits(), LINEAR, SETTINGS, tmp_path / "two", 1, silent, state)


def test_a_state_of_another_version_is_told(base: Path, reward: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    train_ppo(base, None, reward, digits(), LINEAR, SETTINGS, tmp_path / "one", 1, silent, state)
    for _, folder in ppo_state.found(state):
        values = json.loads((folder / STATE).read_text())
        del values["rates"]
        (folder / STATE).write_text(json.dumps(values))
    with pytest.raises(StageError, match=r"another version \('rates' is missing\); delete this folder"):
        train_ppo(base, None, reward, digits(), LINEAR, SETTINGS, tmp_path / "two", 1, silent, state)


@pytest.mark.parametrize("epochs", [2, 1])
def test_a_training_that_diverges_leaves_a_good_state(base: Path, reward: Path, tmp_path: Path, epochs: int) -> None:
    """The policy learns from the third update on, and far too fast. With one epoch no loss shows it in that update."""
    changes = {"learning_rate": 1e30, "critic_warmup": 2, "epochs": epochs}
    wild, state = SETTINGS.model_copy(update=changes), tmp_path / "state"
    with pytest.raises(StageError, match=r"diverged.*lower distill\.ppo\.learning_rate"):
        train_ppo(base, None, reward, digits(), LINEAR, wild, tmp_path / "out", 1, silent, state)
    assert not (tmp_path / "out").exists()
    assert ppo_state.found(state)[-1][0] <= 2
    newest = ppo_state.latest(state)
    assert newest is not None
    assert all(torch.isfinite(tensor).all() for tensor in newest.tensors.values())
