"""A configuration's section `overseer` becomes an overseer, and mistakes in it are told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from amplification.budget import Limits
from amplification.dispatch import Dispatcher
from amplification.errors import InputError
from amplification.overseers.config import PROGRAM, OverseerConfig
from amplification.overseers.imitator import IMITATOR_FILE, ImitatingOverseer
from amplification.overseers.language_model import LanguageModelOverseer
from amplification.overseers.mixture import MixedOverseer
from amplification.overseers.opening import OVERSEERS, Parts, open_overseer
from amplification.overseers.program import ProgramOverseer
from amplification.serving.config import ServingConfig
from amplification.serving.scripted import ScriptedSampler
from amplification.tasks import TASKS

HERE, ELSEWHERE = ServingConfig(backend="scripted"), ServingConfig(backend="scripted", seed=1)
CHAT = {"backend": "openai", "http": {"endpoint": "chat"}}
MODEL = {"kind": "language_model", "language_model": {"model": "some/model"}}


def parts(asked: list[ServingConfig] | None = None) -> Parts:
    def dispatcher(serving: ServingConfig) -> Dispatcher:
        if asked is not None:
            asked.append(serving)
        return Dispatcher(ScriptedSampler())

    return Parts(TASKS, Limits(), HERE, dispatcher)


def config(**section: Any) -> OverseerConfig:
    return OverseerConfig.model_validate(section)


@pytest.fixture
def imitator(tmp_path: Path) -> Path:
    (tmp_path / IMITATOR_FILE).write_text('{"threshold": 0.75, "max_tokens": 64}', encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_every_kind_has_a_way_to_open_it() -> None:
    kinds = OverseerConfig.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    assert set(kinds) == set(OVERSEERS)
    assert isinstance(open_overseer(PROGRAM, parts()), ProgramOverseer)


def test_models_run_where_they_are_said_to(imitator: Path) -> None:
    asked: list[ServingConfig] = []
    real = {"kind": "language_model", "language_model": {"model": "some/model", "serving": ELSEWHERE}}
    section = {"folder": imitator, "real": real}
    opened = open_overseer(config(kind="imitator", imitator=section), parts(asked))
    assert isinstance(opened, ImitatingOverseer)
    assert isinstance(opened.real, LanguageModelOverseer)
    assert opened.threshold == 0.75
    assert sorted(serving.seed for serving in asked) == [0, 1]


def test_overseers_can_be_put_together(imitator: Path) -> None:
    first = {"kind": "imitator", "imitator": {"folder": imitator, "threshold": 0.5}}
    opened = open_overseer(config(kind="mixture", mixture={"first": first, "second": MODEL, "share": 0.1}), parts())
    assert isinstance(opened, MixedOverseer)
    assert isinstance(opened.first, ImitatingOverseer)
    assert isinstance(opened.first.real, ProgramOverseer)
    assert opened.first.threshold == 0.5
    assert opened.first.name in opened.name


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"kind": "imitator"}, "needs a section 'imitator'"),
        ({"kind": "program", **{k: v for k, v in MODEL.items() if k != "kind"}}, "has a section 'language_model'"),
        ({"kind": "robot"}, "'program', 'language_model', 'imitator' or 'mixture'"),
        ({**MODEL, "language_model": {"model": "m", "template": "../../etc/passwd"}}, "'overseer' or 'step_short'"),
        ({"kind": "imitator", "imitator": {"folder": "f", "serving": CHAT}}, "trained without a chat template"),
        ({"kind": "mixture", "mixture": {"first": MODEL, "second": MODEL, "share": 1.5}}, "less than or equal to 1"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        config(**section)


def test_a_folder_that_is_not_there_is_told() -> None:
    section = {"model": "/no/such/folder"}
    with pytest.raises(InputError, match="there is no such folder"):
        open_overseer(config(kind="language_model", language_model=section), parts())
