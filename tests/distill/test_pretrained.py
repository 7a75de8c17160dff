"""A run on a model that somebody else trained, which the run refers to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from amplification.tasks import task, vocabulary
from amplification.tasks.attacks import extra_words
from distill.base import train_base
from distill.configure import load_config
from distill.weights import load_base
from tests.distill.training import silent, spread

DEBUG = Path(__file__).parents[2] / "configs" / "debug.yaml"
LAST = "generation-0/agent"


def test_a_run_on_a_pretrained_model(tmp_path: Path) -> None:
    theirs, debug = tmp_path / "theirs", load_config(DEBUG)
    tasks = {name: task(name) for name in debug.tasks}
    words = (*vocabulary(), *extra_words())
    train_base(tasks, words, debug.model, debug.base, theirs, 1, silent)
    config = yaml.safe_load(DEBUG.read_text()) | {"model": {"pretrained": str(theirs)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "amplification", "run", str(tmp_path / "config.yaml"), "--out", str(out)]
    ran = subprocess.run([*command, "--until", LAST], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [path.name for path in (out / "base").iterdir() if path.suffix == ".safetensors"] == []
    metrics = json.loads((out / LAST / "done.json").read_text())["metrics"]
    assert metrics["episodes"] == config["distill"]["ppo"]["episodes"]
    assert metrics["parameters"] > sum(p.numel() for p in load_base(theirs).parameters())  # and the adapter's
    texts = ["count 1"]
    assert spread(out / "base", out / LAST, texts) != spread(out / "base", None, texts)
