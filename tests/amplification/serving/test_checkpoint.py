"""Folders of models and adapters: bad ones are named in one line before an engine sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from amplification.errors import InputError
from amplification.serving.base import ModelRef
from amplification.serving.checkpoint import Shelf, read_adapter, read_base


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def adapter(tmp_path: Path, tiny_adapter: Path) -> Path:
    return Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def refused(folder: Path, problem: str, base: Path | None = None) -> None:
    """The folder is refused in one line that names it and the problem."""
    with pytest.raises(InputError) as caught:
        read_adapter(str(folder), read_base(str(base))) if base else read_base(str(folder))
    message = str(caught.value)
    assert str(folder) in message and problem in message and "\n" not in message


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such model folder")


def test_a_name_that_is_neither_folder_nor_cached_is_named() -> None:
    with pytest.raises(InputError, match=r"nobody/nothing: .*hf download nobody/nothing"):
        read_base("nobody/nothing")


def test_broken_bases_are_named(model: Path) -> None:
    cut(model / "model.safetensors")
    refused(model, "not a whole safetensors file")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(model, "pickled")
    (model / "pytorch_model.bin").unlink()
    refused(model, "'model.safetensors' is missing")
    change(model / "config.json", architectures=[])
    refused(model, "architectures")
    (model / "config.json").write_text("{", encoding="utf-8")
    refused(model, "cannot be read")


def test_a_reference_leads_to_its_model(tmp_path: Path, model: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "reference.json").write_text(json.dumps({"pretrained": str(model)}), encoding="utf-8")
    assert read_base(str(tmp_path / "run")).folder == model


def test_broken_adapters_are_named(adapter: Path, tiny_model: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    cut(weights)
    refused(adapter, "not a whole safetensors file", tiny_model)
    weights.rename(adapter / "adapter_model.bin")
    refused(adapter, "pickled", tiny_model)
    (adapter / "adapter_config.json").unlink()
    refused(adapter, "no such file", tiny_model)
    refused(adapter / "nowhere", "no such adapter folder", tiny_model)


@pytest.mark.parametrize(
    "setting", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"q_proj": 4}}]
)
def test_what_a_plain_merge_would_ignore_is_refused(
    adapter: Path, tiny_model: Path, setting: dict[str, object]
) -> None:
    change(adapter / "adapter_config.json", **setting)
    refused(adapter, f"'{next(iter(setting))}' is not supported", tiny_model)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, model: Path, tiny_adapter: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    config.intermediate_size *= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    with pytest.raises(InputError, match=r"made for another base: 'model\.layers\.0\.mlp.*does not fit"):
        read_adapter(str(tiny_adapter), read_base(str(model)))


def test_parameters_are_those_of_the_model_in_memory(
    tmp_path: Path, tiny_model: Path, make_adapter: Callable[..., Path]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(tmp_path / "adapter", tiny_model, rank=4)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert Shelf().parameters(ModelRef(str(tiny_model))) == sum(w.numel() for w in model.parameters())
    adapted = PeftModel.from_pretrained(model, str(adapter))
    got = Shelf().parameters(ModelRef(str(tiny_model), str(adapter)))
    assert got == sum(w.numel() for w in adapted.parameters())


def test_models_of_one_skeleton_differ_in_weights_alone(
    tmp_path: Path, tiny_model: Path, make_model: Callable[..., Path]
) -> None:
    sister = make_model(tmp_path / "sister", seed=9)
    assert read_base(str(sister)).skeleton == read_base(str(tiny_model)).skeleton
    change(sister / "config.json", rms_norm_eps=0.5)
    assert read_base(str(sister)).skeleton != read_base(str(tiny_model)).skeleton
