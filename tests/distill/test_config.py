"""What is wrong with a configuration is told by file, key, problem and remedy, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from amplification.errors import InputError
from distill.config import RunConfig
from distill.configure import dotted_keys, load_config

KEYS = list(dotted_keys(RunConfig))
SECTIONS = [key for key in KEYS if any(other.startswith(key + ".") for other in KEYS)]


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_config(written(folder, text))
    error = caught.value
    assert error.exit_code == 2
    assert "\n" not in str(error)
    assert str(error).startswith(str(folder / "run.yaml"))
    return error


def nested(dotted: str, value: object) -> dict[str, object]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def test_a_short_file_keeps_the_other_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "seed: 7\ndistill: {ppo: {learning_rate: 1e-5}}\n"))
    default = RunConfig()
    assert config.seed == 7
    assert config.distill.ppo.learning_rate == 1e-5  # YAML 1.1 reads 1e-5 as a word
    assert config.distill.ppo.batch == default.distill.ppo.batch
    assert config.model == default.model


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        RunConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("distill: {ppo: {lerning_rate: 1}}", "distill.ppo.lerning_rate", "did you mean 'distill.ppo.learning_rate'?"),
        ("ppo: {batch: 3}", "'ppo'", "did you mean 'distill.ppo'?"),
        ("sede: 1", "'sede'", "did you mean 'seed'?"),
        ("seed: soon", "'seed'", "correct"),
        ("seed: -1", "'seed' should be greater", "correct"),
        ("seed: [1]", "'seed'", "correct"),
        ("distill: {adapter: {rank: 3}}", "'distill.adapter.rank'", "correct"),
        ("distill: 3", "'distill' must hold keys", "indent"),
        ("distill:", "'distill' must hold keys", "indent"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' is given twice", "correct"),
        ("distill: {ppo: {batch: 2, batch: 3}}", "'batch' is given twice", "correct"),
        ("seed: [1", "line 1", "correct"),
        ("a: &a {b: *a}", "", ""),
        ("!!python/object:os.system {}", "could not determine a constructor", "correct"),
        ("- seed", "must hold keys", "configs/demo.yaml"),
        ("just words", "must hold keys", "configs/demo.yaml"),
        ("1: 2", "not a word", ""),
        ("", "empty", "seed: 1"),
        ("# nothing but a comment", "empty", "seed: 1"),
        ("[" * 5000, "not YAML that can be read", "correct"),
        ("seed: \x07", "not YAML that can be read", "correct"),
        ("tasks: [counting, jumping]", "'jumping', which is no task", "counting"),
        ("tasks: []", "'tasks' is empty", "counting"),
        ("tasks: [counting, counting]", "twice", "counting"),
        ("generations: 40", "'generations' is 40", "3 or less"),
        ("limits: {calls: 0}", "'limits.calls'", "correct"),
        ("limits: {tokens: 0}", "'limits.tokens'", "correct"),
        ("limits: {seconds: 0}", "'limits.seconds'", "correct"),
        ("limits: {depth: 0}", "'limits.depth'", "correct"),
        ("model: {width: 100, heads: 3}", "'model.width' is 100", "96"),
        ("serving: {max_lora_rank: 8}", "below 'distill.adapter.rank'", "64"),
        ("serving: {max_model_len: 9}", "below 'model.max_length'", ""),
        ("serving: {backend: openai, http: {endpoint: chat}}", "'serving.http.endpoint' is 'chat'", "'completions'"),
        (
            "distill: {ppo: {batch: 100, minibatches: 4, processes: 2}}",
            "'distill.ppo.batch' is 100, which 'processes' times 'minibatches' times 'answers' (8) do not divide",
            "set it to 96",
        ),
        (
            "distill: {reward: {members: 1}, labels: {selection: {by: disagreement}}}",
            "1 reward model is never of two minds",
            "set 'distill.reward.members' to 2",
        ),
        ("distill: {labels: {selection: {by: guess}}}", "'distill.labels.selection.by'", "correct"),
        (
            "distill: {adversary: {kinds: []}}",
            "'distill.adversary.kinds' is empty",
            "'distill.adversary.enabled: false'",
        ),
        ("distill: {adversary: {kinds: [mutation, mutation]}}", "names a kind twice", "once"),
        ("distill: {adversary: {kinds: [people]}}", "'distill.adversary.kinds.0' should be 'mutation'", "correct"),
        ("distill: {adversary: {kinds: [corpus]}}", "'distill.adversary.corpus' is not set", "take the kind out"),
        ("distill: {adversary: {kinds: [writer]}}", "'distill.adversary.writer' is not set", "take the kind out"),
        ("distill: {adversary: {corpus: a.txt}}", "'distill.adversary.kinds' does not name 'corpus'", "name it there"),
        ("distill: {adversary: {writer: {model: a}}}", "does not name 'writer'", "name it there"),
        ("distill: {adversary: {writer: {}}}", "'distill.adversary.writer.model'", "correct"),
        ("distill: {ppo: {rollouts_sleep: true}}", "'distill.ppo.rollouts_sleep' is set", "'vllm'"),
        ("distill: {ppo: {rollouts: guessed}}", "'distill.ppo.rollouts' should be 'transformers' or 'vllm'", "correct"),
        (
            "distill: {adapter: {method: linear}, ppo: {processes: 2, accelerate: configs/accelerate/fsdp2.yaml}}",
            "'distill.adapter.method' is 'linear'",
            "'lora' or 'full'",
        ),
        (
            "distill: {ppo: {accelerate: configs/accelerate/one_gpu.yaml, watch: {every: 2}}}",
            "H^A can watch one process of its own only",
            "without 'accelerate'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str, remedy: str) -> None:
    error = refusal(tmp_path, text)
    assert problem in error.problem
    assert remedy in error.remedy


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            load_config(path)
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(InputError, match=r"image\.yaml: this is not a text file"):
        load_config(tmp_path / "image.yaml")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(section=st.sampled_from(["", *SECTIONS]), key=st.text(min_size=1, max_size=30), value=st.integers())
def test_no_unknown_key_gets_through(tmp_path: Path, section: str, key: str, value: int) -> None:
    known = {k[len(section) :].strip(".").split(".")[0] for k in KEYS if k.startswith(section)}
    if key in known:
        return
    data = nested(f"{section}.SECTION" if section else "SECTION", value)
    text = yaml.safe_dump(data).replace("SECTION", yaml.safe_dump(key, width=1000).removesuffix("\n...\n").strip())
    with pytest.raises(InputError) as caught:
        load_config(written(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_what_is_no_value_of_it(tmp_path: Path, key: str) -> None:
    error = refusal(tmp_path, yaml.safe_dump(nested(key, {"no": ["value"]})))
    assert key in error.problem


def test_dotted_keys_are_those_of_the_nested_sections() -> None:
    assert "distill.ppo.learning_rate" in KEYS
    for section in SECTIONS:
        kind: type[BaseModel] = RunConfig
        for part in section.split("."):
            annotation = kind.model_fields[part].annotation
            assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
            kind = annotation


def test_later_generations_have_longer_warm_starts() -> None:
    settings = RunConfig.model_validate(
        {"distill": {"warm_start": {"steps": 700, "more_steps": 300}}}
    ).distill.warm_start
    assert [settings.of(n).steps for n in range(3)] == [700, 1000, 1300]
    assert settings.of(2).of(5) == settings.of(2)
