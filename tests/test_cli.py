"""The command line: exit codes, one line for every mistake, and what reaches the terminal."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from amplification import ask, cli, serving
from amplification.errors import ServingError, StageError
from amplification.serving.base import Call, Completion, ModelRef
from amplification.store import Store
from amplification.tasks import task_of
from distill.config import RunConfig

ROOT = Path(__file__).parents[1]


class TruthfulSampler:
    """Answers like a perfect agent; to what is no question it returns terminal commands."""

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        return [Completion(self._answer(call.prompt.removesuffix(" :")), 5, 2) for call in calls]

    def _answer(self, question: str) -> str:
        task = task_of(question)
        return task.truth(question) if task else "\x1b[2J[red]nonsense\u202e"

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a run with one complete generation, and one that was interrupted."""
    run = tmp_path / "run"
    for folder in ("base", "generation-0/agent", "generation-1/agent.partial"):
        (run / folder).mkdir(parents=True)
    record = {"format": 1, "config": RunConfig().model_dump(mode="json")}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    (run / "base" / "model.safetensors").write_bytes(b"weights")
    agent = run / "generation-0" / "agent"
    (agent / "adapter_model.safetensors").write_bytes(b"adapter")
    (agent / "adapter_config.json").write_text("{}")
    (agent / "done.json").write_text("{}")
    Store.at(run / "store.sqlite").close()
    monkeypatch.setattr(serving, "open_sampler", lambda _: TruthfulSampler())
    return run


def amplify(*args: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from amplification.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def told(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Exit code and the one line on standard error; nothing may be on standard output."""
    code = cli.main(args)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("amplify: ") and err.count("\n") == 1
    return code, err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), "no command"),
        (("rnu",), "'rnu'"),
        (("run", "--distill.ppo.lerning-rate", "1"), "did you mean --distill.ppo.learning-rate?"),
        (("run", "--distill.ppo.learning-rate", "fast"), "--distill.ppo.learning-rate: could not convert"),
        (("run", "--distill.ppo.learning-rate", "-1"), "'distill.ppo.learning_rate' should be greater than 0"),
        (("run", "--distill.adapter.rank", "3"), "--distill.adapter.rank cannot be '3'; choose from 1, 8"),
        (("run", "--seed", "-2"), "'seed' should be greater"),
        (("run", "--seed"), "--seed has no value"),
        (("run", "--limits.calls", "0"), "'limits.calls'"),
        (("run", "--tasks", "jumping"), "'jumping', which is no task"),
        (("run", "configs/demo.yaml", "configs/debug.yaml"), "one argument too many"),
        (("run", "no/such.yaml"), "no/such.yaml: there is no such file"),
        (("experiment", "configs/experiments/missing.yaml"), "such as configs/experiments/drift.yaml"),
        (("experiment", "configs/demo.yaml"), "there is no key 'experiment'"),
        (("experiment", "drift"), "give one such as configs/experiments/drift.yaml"),
        (("experiment",), "there is no experiment"),
        (("run", "--until", "generation-0/labels", "--only", "base"), "--until and --only"),
        (("run", "--out", "pyproject.toml"), "pyproject.toml: this is a file"),
        (("run", "--out", "configs"), "configs: the folder holds something else"),
        (("ask", "sum of 1 2"), "--run is missing"),
        (("ask", "--run", "no/such", "sum of 1 2"), "no/such/config.yaml: there is no run here"),
        (("report", "no/such"), "no/such/config.yaml: there is no run here"),
        (("bench", "speed"), "WHAT cannot be 'speed'; choose from throughput"),
        (("bench", "throughput", "--repeats", "0"), "--repeats is 0"),
        (("bench", "ppo", "--size", "7b"), "--size cannot be '7b'; choose from embedded, 100m"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, line = told(capsys, *args)
    assert code == 2
    assert named in line


def test_a_real_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("distill: {ppo: {lerning_rate: 1}}\n")
    done = amplify("run", str(bad), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"amplify: {bad}: there is no key 'distill.ppo.lerning_rate'; did you mean 'distill.ppo.learning_rate'?\n"
    )
    assert not (tmp_path / "out").exists()


def test_help_shows_the_options_with_the_values_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distill: {ppo: {episodes: 777}}\n")
    done = amplify("run", str(file), "--help")
    assert done.returncode == 0
    assert "--distill.ppo.episodes" in done.stdout and "777" in done.stdout
    usage = amplify("--help")
    assert usage.returncode == 0
    assert all(f"amplify {command}" in usage.stdout for command in cli.COMMANDS)


@pytest.mark.parametrize(
    ("raised", "code", "named"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (StageError("runs/x: stage labels failed"), 1, "stage labels failed"),
        (ServingError("the model did not start"), 1, "did not start"),
        (MemoryError("64 GiB"), 1, "out of memory (64 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), 1, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/labels"), 1, "runs/x/labels: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "runs/x: Permission denied"),
    ],
)
def test_failures_are_one_line_and_their_exit_code(
    raised: BaseException, code: int, named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_args: list[str]) -> int:
        raise raised

    monkeypatch.setitem(cli.COMMANDS, "run", fails)
    found, line = told(capsys, "run")
    assert found == code
    assert named in line


def test_a_bug_is_not_taken_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_args: list[str]) -> int:
        raise RuntimeError("dictionary changed size")

    monkeypatch.setitem(cli.COMMANDS, "run", fails)
    with pytest.raises(RuntimeError):
        cli.main(["run"])


def test_messages_carry_no_terminal_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = told(capsys, "\x1b[2Jrun\nnow")
    assert code == 2
    assert line.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("episodes", "--limit", "-3"), "--limit is -3"),
        (("ask", "--overseer", "gpt", "sum of 1 2"), "--overseer cannot be 'gpt'; give program, human or a YAML file"),
    ],
)
def test_mistakes_about_a_run_are_one_line(
    args: tuple[str, ...], named: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = told(capsys, args[0], "--run", str(finished_run), *args[1:])
    assert code == 2
    assert named in line


def test_ask_shows_who_answered_what(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "--run", str(finished_run), "sum of 3 7 2 8"]) == 0
    out = capsys.readouterr().out
    assert "sum of 3 7  10  (agent)" in out and "sum of 2 8  10  (agent)" in out
    assert "H^A0: 20" in out
    assert "2 overseer steps, 2 calls, 0 memo hits, 14 tokens" in out


def test_ask_direct_is_one_call_and_its_output_is_harmless(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "--run", str(finished_run), "--direct", "sum of 3 7"]) == 0
    out = capsys.readouterr().out
    assert "A0: 10" in out and "1 calls" in out
    assert cli.main(["ask", "--run", str(finished_run), "--direct", "what is love"]) == 0
    out = capsys.readouterr().out
    assert "[red]nonsense" in out and "no task understands" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_ask_says_so_when_no_task_understands(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "--run", str(finished_run), "what is love"]) == 0
    assert "no answer: no task understands this question" in capsys.readouterr().out


def test_ask_leaves_the_run_as_it_was(finished_run: Path) -> None:
    agent = ask.last_agent(finished_run)
    assert cli.main(["ask", "--run", str(finished_run), "sum of 3 7 2 8"]) == 0
    store = Store.at(finished_run / "store.sqlite")
    assert list(store.memo_rows(agent.digest)) == []
    store.close()


def test_ask_refuses_a_run_without_an_agent(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished_run / "generation-0" / "agent" / "done.json").unlink()
    code, line = told(capsys, "ask", "--run", str(finished_run), "sum of 1 2")
    assert code == 2
    assert "no generation of this run is complete" in line


@pytest.mark.parametrize("question", ["", " \n ", "\x00", "1 " * 2000])
def test_ask_refuses_what_is_no_question(question: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if question == "\x00":
        assert cli.main(["ask", "--run", str(finished_run), question]) == 0
        assert "no task understands" in capsys.readouterr().out
        return
    code, line = told(capsys, "ask", "--run", str(finished_run), question)
    assert code == 2
    assert "the question" in line


def test_report_refuses_a_run_that_has_none(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = told(capsys, "report", str(finished_run))
    assert code == 2
    assert "no report yet" in line
    (finished_run / "report.json").write_text("{")
    assert told(capsys, "report", str(finished_run))[0] == 2


def test_bench_prints_one_json_object(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = pytest.importorskip("amplification.benchmarks.throughput")

    def measured(*_: Any) -> Any:
        print("a library talks")
        return bench.Throughput(4500.0, 5000.0, 0.9, 2048, 5)

    monkeypatch.setattr(bench, "throughput", measured)
    assert cli.main(["bench", "throughput", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {
        "calls_per_second": 4500.0,
        "raw_calls_per_second": 5000.0,
        "ratio": 0.9,
        "calls": 2048,
        "repeats": 5,
    }
    assert "a library talks" in err
    assert cli.main(["bench", "throughput"]) == 0
    assert "ratio 0.900" in capfd.readouterr().out


def test_ask_takes_an_overseer_from_a_file(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "overseer.yaml"
    file.write_text("kind: language_model\nlanguage_model: {model: some/model}\n")
    # The stand-in for all models answers questions and writes no actions.
    assert cli.main(["ask", "--run", str(finished_run), "--overseer", str(file), "why"]) == 0
    assert "wrote no action" in capsys.readouterr().out
    file.write_text("kind: language_model\nlanguage_model: {modle: some/model}\n")
    assert cli.main(["ask", "--run", str(finished_run), "--overseer", str(file), "why"]) == 2
    assert "language_model.modle" in capsys.readouterr().err


def test_imitate_writes_over_nothing(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["imitate", "--run", str(finished_run), "--out", str(finished_run)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert cli.main(["imitate", "--run", str(finished_run), "--out", str(finished_run / "imitator")]) == 2
    assert "too few to learn from" in capsys.readouterr().err
