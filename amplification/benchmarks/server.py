"""A vLLM server of its own process on loopback, that ends with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from amplification.errors import ServingError

SECONDS_TO_START = 300
LINES_TOLD = 20


@dataclass(frozen=True)
class RunningServer:
    """`url` is the base URL; `process` leads a process group of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL to the server and its engine."""
        with suppress(ProcessLookupError):  # all gone already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm_server(model: Path, *options: str) -> Iterator[RunningServer]:
    """A server of `model`, ready to answer, killed at the end whatever happens.

    Raises ServingError with the end of its log if it does not start; the log is then kept, and its place told.
    """
    port = _free_port()
    log = Path(tempfile.mkstemp(prefix="vllm-server-", suffix=".log")[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--block-size", "32", "--max-model-len", "128"]
    command += ["--enforce-eager", "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", *options]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = "300"  # bare clients know no retries
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a tiny model's threads spin longer than they work
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    server = RunningServer(f"http://127.0.0.1:{port}/v1", process)
    try:
        _wait(server, log)
        yield server
    except BaseException:
        print(f"the server's log is kept in {log}", file=sys.stderr)
        raise
    else:
        log.unlink()
    finally:
        server.kill()  # even if it has ended: its engine may not have


def _wait(server: RunningServer, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(server.url.removesuffix("/v1") + "/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    end = " | ".join(log.read_text(errors="replace").splitlines()[-LINES_TOLD:])
    raise ServingError(f"the vLLM server did not start; the end of its log: {end}")


def _free_port() -> int:
    # vLLM does not tell which port it took if it is given 0.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
