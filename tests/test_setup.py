"""The lock file installs what the package asks for, and nothing that breaks an environment without a GPU."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
LOCKED = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}


def test_every_line_is_one_exact_version() -> None:
    for line in LOCK:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    assert len(LOCKED) == len(LOCK)


@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec"])
def test_cuda_builds_are_left_out(name: str) -> None:
    assert name not in LOCKED
    assert not any(key.startswith("nvidia") for key in LOCKED)


@pytest.mark.parametrize("asked", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]])
def test_what_the_package_asks_for_is_locked(asked: str) -> None:
    requirement = Requirement(asked)
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("asked", PROJECT["optional-dependencies"]["dev"])
def test_what_development_asks_for_is_locked(asked: str) -> None:
    requirement = Requirement(asked)
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])
