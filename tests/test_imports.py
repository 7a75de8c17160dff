"""The arrows between packages, and what may not be imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("amplification", "prompts", "distill", "eval")
HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "peft", "accelerate", "matplotlib")

# Who may not know whom. The composition root joins them all, so it is exempt.
FORBIDDEN = {
    "amplification": ("distill", "eval"),
    "prompts": ("amplification", "distill", "eval"),
    "distill": ("eval",),
    "eval": ("distill",),
}
COMPOSITION_ROOT = {"amplification/cli.py"}


def modules() -> list[str]:
    return [str(f.relative_to(ROOT)) for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]


def imported(path: str) -> Iterator[str]:
    """Top-level package of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split("\n"))


def test_there_are_modules_to_look_at() -> None:
    assert {m.split("/")[0] for m in modules()} == set(PACKAGES)


@pytest.mark.parametrize("module", modules())
def test_arrows_point_one_way(module: str) -> None:
    found, package = set(imported(module)), module.split("/")[0]
    if module not in COMPOSITION_ROOT:
        assert not found & set(FORBIDDEN[package])
    if not module.startswith("amplification/serving/"):
        assert "vllm" not in found
    if package != "distill":
        assert "trl" not in found
    assert "pickle" not in found


@pytest.mark.parametrize("statement", ["import amplification", "import distill, eval, prompts"])
def test_importing_the_packages_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_by(statement) & set(HEAVY)


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "--sede", "1"],
        ["run", "no/such.yaml"],
        ["ask", "--run", "no/such", "sum of 1 2"],
        ["report", "no/such"],
        ["bench", "--help"],
    ],
)
def test_help_and_mistakes_load_nothing_heavy(args: list[str]) -> None:
    loaded = loaded_by(f"from amplification.cli import main\nmain({args!r})")
    assert "amplification.cli" in loaded
    assert not loaded & {*HEAVY, "sqlalchemy"}
