"""Stages: done once, whole or not at all, and never on top of another configuration's or a damaged one's."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from amplification.errors import InputError, StageError
from distill.config import RunConfig
from distill.progress import Progress
from distill.stage import RunFolder, exclusive, read_done, state_of


class Silent:
    """A reporter that keeps the names of the stages that really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def expect(self, stages: int) -> None: ...
    def started(self, name: str) -> None:
        self.ran.append(name)

    def progress(self, done: int, total: int) -> None: ...
    def finished(self, name: str, seconds: float, metrics: object) -> None: ...
    def skipped(self, name: str) -> None: ...


def run_folder(path: Path, config: RunConfig | None = None) -> RunFolder:
    return RunFolder(path, config or RunConfig(), Silent())


def write(out: Path, progress: Progress) -> dict[str, int]:
    (out / "weights.txt").write_text("weights")
    return {"labels": 3}


def test_a_complete_stage_is_not_done_again(tmp_path: Path) -> None:
    first = run_folder(tmp_path).stage("generation-0/labels", write)
    again = run_folder(tmp_path)
    done = again.stage("generation-0/labels", lambda out, progress: pytest.fail("ran twice"))
    assert (done.metrics, done.seconds) == (first.metrics, first.seconds)
    assert (done.folder / "weights.txt").read_text() == "weights"


def test_a_failed_stage_leaves_the_others_and_runs_anew(tmp_path: Path) -> None:
    runs = run_folder(tmp_path)
    runs.stage("one", write)

    def full_disk(out: Path, progress: Progress) -> dict[str, int]:
        (out / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StageError, match=r"stage two failed .*No space left.*the disk is full, make room"):
        runs.stage("two", full_disk)
    assert not (tmp_path / "two").exists()
    assert read_done(tmp_path / "one").metrics == {"labels": 3}
    done = runs.stage("two", write)
    assert not (done.folder / "half").exists()


def test_a_stage_killed_in_the_middle_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    def slow(out: Path, progress: Progress) -> dict[str, int]:
        (out / "weights.txt").write_text("half")
        (tmp_path / "begun").touch()
        time.sleep(60)
        return {}

    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: run_folder(tmp_path).stage("one", slow))
    child.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert not (tmp_path / "one").exists()
    assert run_folder(tmp_path).stage("one", write).metrics == {"labels": 3}


@pytest.mark.parametrize("damage", ["truncate", "delete", "record", "no record"])
def test_a_damaged_stage_is_named_and_not_used(tmp_path: Path, damage: str) -> None:
    folder = run_folder(tmp_path).stage("one", write).folder
    file, record = folder / "weights.txt", folder / "done.json"
    if damage == "truncate":
        file.write_text("wei")
    elif damage == "delete":
        file.unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:20])
    else:
        record.unlink()
    with pytest.raises(InputError, match=r"delete .*one and run again") as raised:
        run_folder(tmp_path).stage("one", write)
    assert str(folder) in raised.value.where


def test_another_configuration_is_refused_by_the_key_that_differs(tmp_path: Path) -> None:
    run_folder(tmp_path)
    with pytest.raises(InputError, match=r"seed was 1, now 2"):
        run_folder(tmp_path, RunConfig(seed=2))


def test_a_run_goes_on_when_its_server_has_moved(tmp_path: Path) -> None:
    first = run_folder(tmp_path).stage("generation-0/labels", write)
    moved = RunConfig.model_validate({"serving": {"http": {"servers": ["http://127.0.0.1:9/v1"], "retries": 9}}})
    assert moved != RunConfig()
    assert run_folder(tmp_path, moved).stage("generation-0/labels", write).seconds == first.seconds
    with pytest.raises(InputError, match=r"serving\.block_size"):
        run_folder(tmp_path, RunConfig.model_validate({"serving": {"block_size": 64}}))


def test_what_a_stage_kept_to_carry_on_is_gone_when_it_is_complete(tmp_path: Path) -> None:
    def interrupted(out: Path, progress: Progress) -> dict[str, int]:
        state_of(out).mkdir(exist_ok=True)
        (state_of(out) / "half").write_text("done")
        raise RuntimeError("no more")

    def carried_on(out: Path, progress: Progress) -> dict[str, int]:
        return {"found": len(list(state_of(out).iterdir()))}

    folder = run_folder(tmp_path)
    with pytest.raises(StageError):
        folder.stage("generation-0/agent", interrupted)
    assert folder.stage("generation-0/agent", carried_on).metrics == {"found": 1}
    assert not state_of(tmp_path / "generation-0" / "agent").exists()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    run_folder(tmp_path)
    path = tmp_path / "config.yaml"
    record = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**record, "format": 99}))
    with pytest.raises(InputError, match="format 99 is newer"):
        run_folder(tmp_path)


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(InputError, match="another process"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):  # free again
        assert (tmp_path / ".lock").exists()


def test_the_record_holds_what_the_stage_measured(tmp_path: Path) -> None:
    folder = run_folder(tmp_path).stage("one", write).folder
    record = json.loads((folder / "done.json").read_text())
    assert record["metrics"] == {"labels": 3}
    assert set(record["files"]) == {"weights.txt"}


def test_a_run_goes_on_with_more_processes_or_less_memory(tmp_path: Path) -> None:
    first = run_folder(tmp_path).stage("generation-0/labels", write)
    many = {"distill": {"ppo": {"processes": 2, "accelerate": "configs/accelerate/ddp.yaml"}}}
    again_done = run_folder(tmp_path, RunConfig.model_validate(many)).stage("generation-0/labels", write)
    assert again_done.seconds == first.seconds
    less = {"part": 8, "gradient_checkpointing": True, "checkpoint_seconds": 5}  # the remedies of a lack of memory
    lean = {"distill": {"ppo": less}, "serving": {"kv_cache_gib": 0.5}}
    assert run_folder(tmp_path, RunConfig.model_validate(lean)).stage("generation-0/labels", write) == again_done
    with pytest.raises(InputError, match=r"distill.ppo.batch was 256, now 64"):
        run_folder(tmp_path, RunConfig.model_validate({"distill": {"ppo": {"processes": 2, "batch": 64}}}))
