"""Reading a run's configuration from YAML. Whatever is wrong with a file becomes one line that says where and what."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from amplification.errors import InputError
from amplification.overseers.config import PROGRAM, OverseerConfig
from amplification.tasks import TASKS
from distill.config import RunConfig
from distill.processes import IN_PIECES, read_processes

Config = TypeVar("Config", bound=BaseModel)

EMBEDDED = "the embedded demo.yaml"
DEMO = "configs/demo.yaml"

# Widths of an attention head that vLLM's CPU kernels are built for.
HEAD_SIZES = (32, 64)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_config(path: Path | None = None) -> RunConfig:
    """The configuration in a YAML file, or the embedded default. Raises InputError if anything about it is wrong."""
    if path is None:
        text, where = (files("configs") / "demo.yaml").read_text(encoding="utf-8"), EMBEDDED
    else:
        text, where = _read(path), str(path)
    config = from_mapping(RunConfig, _mapping(text, where), where)
    check(config, where)
    return config


def read_mapping(path: Path, example: str = DEMO) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises InputError if it is missing (naming an example) or has no keys."""
    return _mapping(_read(path, example), str(path))


def load_overseer(name: str) -> OverseerConfig:
    """The overseer that a YAML file configures, with the keys of a configuration's section `overseer`; `program` is the
    tasks' own. Raises InputError if anything about it is wrong."""
    if name == PROGRAM.kind:
        return PROGRAM
    if not Path(name).exists() and not name.endswith((".yaml", ".yml")):
        raise InputError("command line", f"--overseer cannot be '{name}'", "give program, human or a YAML file")
    return from_mapping(OverseerConfig, read_mapping(Path(name)), name)


def from_mapping(kind: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """`data` as a `kind`. Raises InputError that names the dotted key, what is wrong with it and a remedy."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise refused(kind, error, where) from error


def refused(kind: type[BaseModel], error: ValidationError, where: str, prefix: tuple[str, ...] = ()) -> InputError:
    """The first of pydantic's complaints as an InputError. `prefix` is where in `kind` the refused part lies."""
    # An unknown key is the likeliest mistake, and the cause of others (a key it stands for is then missing).
    found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    loc = (*prefix, *(str(part) for part in found["loc"]))
    key = ".".join(loc)
    if found["type"] == "extra_forbidden":
        return InputError(where, f"there is no key '{key}'", _nearest(kind, loc))
    if found["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return InputError(where, f"'{key}' must hold keys of its own, got {found['input']!r}", "indent them below it")
    message = found["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return InputError(where, f"'{key}' {message}, got {found['input']!r:.60}", "correct the value")


def check(config: RunConfig, where: str) -> None:
    """Refuse settings that are each fine and do not go together. Raises InputError."""
    for name in config.tasks:
        if name not in TASKS:
            raise InputError(where, f"'tasks' names '{name}', which is no task", f"choose from {', '.join(TASKS)}")
    if not config.tasks or len(set(config.tasks)) < len(config.tasks):
        raise InputError(where, "'tasks' is empty or names a task twice", f"choose from {', '.join(TASKS)}")
    most = min(len(TASKS[name].levels) for name in config.tasks) - 1
    if config.generations > most:
        problem = f"'generations' is {config.generations}, and the tasks have levels for {most}"
        raise InputError(where, problem, f"set it to {most} or less")
    if config.scheme == "collapsed" and config.collapsed.rounds <= config.generations:
        problem = (
            f"'collapsed.rounds' is {config.collapsed.rounds}, and {config.generations + 1} levels are to be learned"
        )
        raise InputError(where, problem, f"set it to {config.generations + 1} or more, or 'generations' to less")
    _check_model(config, where)
    _check_ppo(config, where)
    _check_adversary(config, where)
    selection, members = config.distill.labels.selection, config.distill.reward.members
    if selection.by != "random" and members < 2:
        problem = f"'distill.labels.selection.by' is {selection.by}, and {members} reward model is never of two minds"
        raise InputError(where, problem, "set 'distill.reward.members' to 2 or more, or 'by' to random")


def _check_adversary(config: RunConfig, where: str) -> None:
    adversary = config.distill.adversary
    if not adversary.kinds or len(set(adversary.kinds)) < len(adversary.kinds):
        problem = "'distill.adversary.kinds' is empty or names a kind twice"
        raise InputError(where, problem, "name each once; 'distill.adversary.enabled: false' is a run without any")
    for kind, section in (("corpus", adversary.corpus), ("writer", adversary.writer)):
        if section is None and kind in adversary.kinds:
            problem = f"'distill.adversary.kinds' names '{kind}', and 'distill.adversary.{kind}' is not set"
            raise InputError(where, problem, "set it, or take the kind out")
        if section is not None and kind not in adversary.kinds:
            problem = f"'distill.adversary.{kind}' is set, and 'distill.adversary.kinds' does not name '{kind}'"
            raise InputError(where, problem, "name it there, or remove the setting")


def _check_ppo(config: RunConfig, where: str) -> None:
    ppo = config.distill.ppo
    shares = ppo.processes * ppo.minibatches * ppo.answers
    if ppo.batch % shares:
        factors = "'processes' times 'minibatches' times 'answers'"
        problem = f"'distill.ppo.batch' is {ppo.batch}, which {factors} ({shares}) do not divide"
        raise InputError(where, problem, f"set it to {max(1, ppo.batch // shares) * shares}")
    kind = read_processes(ppo.accelerate, ppo.processes).kind if ppo.accelerate else None
    if kind in IN_PIECES and config.distill.adapter.method == "linear":
        problem = f"'distill.adapter.method' is 'linear', and {ppo.accelerate} trains in pieces"
        raise InputError(where, problem, "set it to 'lora' or 'full', or use configs/accelerate/ddp.yaml")
    if ppo.watch.every and (ppo.processes > 1 or ppo.accelerate is not None):
        problem = f"'distill.ppo.processes' is {ppo.processes}, and H^A can watch one process of its own only"
        raise InputError(where, problem, "set it to 1 without 'accelerate', or 'distill.ppo.watch.every' to 0")
    if ppo.rollouts_sleep and ppo.rollouts != "vllm":
        problem = f"'distill.ppo.rollouts_sleep' is set, and 'distill.ppo.rollouts' is '{ppo.rollouts}'"
        raise InputError(where, problem, "set that to 'vllm'; nothing else sleeps")
    if config.distill.reward.refresh.most and not ppo.watch.every:
        problem = "'distill.reward.refresh' needs somebody who looks at PPO"
        raise InputError(where, problem, "set 'distill.ppo.watch.every' to 4, say")
    if ppo.labelled and config.overseer.kind != "program":
        problem = "'distill.ppo.labelled' takes H^A's answer for the one that is acceptable, as a program's is alone"
        remedy = "set it to 0 (and 'distill.warm_start.enabled' to true), or 'overseer.kind' to 'program'"
        raise InputError(where, problem, remedy)


def _check_model(config: RunConfig, where: str) -> None:
    model, serving, adapter = config.model, config.serving, config.distill.adapter
    if model.pretrained is None and model.width not in (size * model.heads for size in HEAD_SIZES):
        problem = f"'model.width' is {model.width}, and its {model.heads} heads can each be 32 or 64 wide"
        raise InputError(where, problem, f"set it to {32 * model.heads} or {64 * model.heads}")
    if adapter.method == "lora" and adapter.rank > serving.max_lora_rank:
        problem = f"'serving.max_lora_rank' is {serving.max_lora_rank}, below 'distill.adapter.rank'"
        raise InputError(where, problem, f"set it to {adapter.rank}")
    if serving.is_chat:
        problem = "'serving.http.endpoint' is 'chat', and agents are trained on prompts without a chat template"
        raise InputError(where, problem, "set it to 'completions'; an overseer's own 'serving' may be 'chat'")
    if serving.max_model_len < model.max_length:
        problem = f"'serving.max_model_len' is {serving.max_model_len}, below 'model.max_length'"
        raise InputError(where, problem, f"set it to {model.max_length} or more")


def dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, nested ones with dots."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from dotted_keys(field.annotation, f"{prefix}{name}.")


def _read(path: Path, example: str = DEMO) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(path, "there is no such file", f"give a configuration such as {example}") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "this is not a text file in UTF-8", "give a YAML file") from error
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})", "check the path and its permissions") from error


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise InputError(where, f"{place}{error.problem or error.context}", "correct the YAML there") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(where, f"this is not YAML that can be read ({reason})", "correct it") from error
    if data is None:
        raise InputError(where, "the file is empty", "write at least one key, for example 'seed: 1'")
    if not isinstance(data, dict):
        raise InputError(where, "the file must hold keys with values", "start from configs/demo.yaml")
    for key in data:
        if not isinstance(key, str):
            raise InputError(where, f"the key {key!r} is not a word", _nearest(RunConfig, (str(key),)))
    return data


def _nearest(kind: type[BaseModel], loc: tuple[str, ...]) -> str:
    """A remedy for an unknown key: the likeliest key of the same section, else of the whole configuration."""
    keys = list(dotted_keys(kind))
    section, key = ".".join(loc[:-1]), loc[-1]
    here = [k for k in keys if k.rpartition(".")[0] == section]
    elsewhere = [k for k in keys if k.rpartition(".")[2] == key]
    close = difflib.get_close_matches(".".join(loc), here) or elsewhere
    close = close or difflib.get_close_matches(".".join(loc), keys, cutoff=0.7)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"the keys here are {', '.join(k.rpartition('.')[2] for k in here)}" if here else "remove it"
