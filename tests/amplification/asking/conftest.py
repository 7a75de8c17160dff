"""A run's folder, and `amplify` in a process of its own: over pipes, or in a terminal that is typed into."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from amplification.store import Store
from distill.config import RunConfig

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("driver.py")
PATIENCE_S = 60.0


class Bench:
    """A run's folder, and a model beside it that can be told what to say and made to wait."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        for part in ("base", "generation-0/agent"):
            (self.run / part).mkdir(parents=True)
        record = {"format": 1, "config": RunConfig().model_dump(mode="json")}
        (self.run / "config.yaml").write_text(yaml.safe_dump(record))
        (self.run / "base" / "model.safetensors").write_bytes(b"weights")
        agent = self.run / "generation-0" / "agent"
        (agent / "adapter_model.safetensors").write_bytes(b"adapter")
        (agent / "adapter_config.json").write_text("{}")
        (agent / "done.json").write_text("{}")
        Store.at(self.run / "store.sqlite").close()
        self.environment = dict(os.environ) | {
            "AMPLIFY_TEST": str(folder),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "COLUMNS": "200",
        }

    def command(self, *args: str) -> list[str]:
        return [sys.executable, str(DRIVER), *args]

    def ask(self, *args: str) -> list[str]:
        return self.command("ask", "--run", str(self.run), *args)

    def piped(self, typed: str, *args: str) -> subprocess.CompletedProcess[str]:
        """A session that reads its lines from a pipe, until they end."""
        return subprocess.run(
            self.ask(*args), input=typed, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def told(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def wrong(self, **answers: str) -> None:
        (self.folder / "wrong.json").write_text(json.dumps({k.replace("_", " "): v for k, v in answers.items()}))

    def asked(self) -> list[str]:
        """Every call so far: its draw's sample number and prompt."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def close_gate(self, text: str) -> None:
        (self.folder / "gate").write_text(text)

    def open_gate(self) -> None:
        (self.folder / "gate").unlink()

    def wait_for_gate(self) -> None:
        """Until the model waits at the gate."""
        deadline = time.monotonic() + PATIENCE_S
        while not (self.folder / "waiting").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Typist:
    """A process in a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            # Tests that a shell began in the background have it ignored, and whoever they start inherits that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(command[0], command, environment)
        self.seen, self._read_up_to = "", 0
        self.status: int | None = None

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def see(self, text: str) -> str:
        """Wait until `text` is printed after what was seen before; gives what was printed up to it."""
        deadline = time.monotonic() + PATIENCE_S
        while (place := self.seen.find(text, self._read_up_to)) < 0:
            assert time.monotonic() < deadline, self.seen[-3000:]
            assert self._more(), f"it ended without {text!r}: {self.seen[-3000:]}"
        before = self.seen[self._read_up_to : place]
        self._read_up_to = place + len(text)
        return before

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Wait for the process to end; gives its exit code (negative: the signal)."""
        while self._more():
            pass
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.terminal)
        return self.status

    def _more(self) -> bool:
        if self.status is not None:
            return False
        ready, _, _ = select.select([self.terminal], [], [], PATIENCE_S)
        try:
            data = os.read(self.terminal, 65_536) if ready else b""
        except OSError:  # what a terminal says when nobody has its other end
            data = b""
        self.seen += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def typist(bench: Bench) -> Iterator[Callable[..., Typist]]:
    """Starts `amplify ask` on the bench's run in a terminal; whatever still runs at the end is killed."""
    started: list[Typist] = []

    def start(*args: str) -> Typist:
        started.append(Typist(bench.ask(*args), bench.environment))
        return started[-1]

    yield start
    for process in started:
        if process.status is None:
            process.kill()
