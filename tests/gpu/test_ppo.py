"""PPO in bfloat16: it learns, what must not be in bfloat16 is not, it fits its memory, and it carries on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from amplification.benchmarks.base import Settings, Size
from amplification.errors import InputError
from amplification.serving.config import ServingConfig
from distill.benchmark import Bench, measure, ppo
from distill.benchmark_sizes import SIZES
from distill.exact import MAX_RANK
from distill.experience import Experience
from distill.known import KnownReward
from distill.optimizer import trainable
from distill.ppo import train_ppo
from distill.ppo_state import latest
from distill.ppo_trainer import PPOTrainer
from distill.precision import output_head
from distill.progress import silent
from distill.rollout import at_states, ends_of
from distill.utilisation import peak_memory
from distill.weights import load_merged, padded, parameters, quiet, save_policy

LARGE = 1e8  # parameters
GPU = torch.cuda.is_available()
# Bytes of what is kept for the gradient, a token, a layer and a unit of its width: a Llama's is about 100.
KEPT = 200
# What the libraries take for themselves.
WORKSPACE = 200 * 2**20


def trained(bench: Bench, **ours: Any) -> PPOTrainer:
    with quiet():
        trainer = bench.trainer(1, **ours)
        trainer.train()
    return trainer


def mean(entries: Sequence[Mapping[str, float]], key: str) -> float:
    return sum(entry[key] for entry in entries) / len(entries)


def short(bench: Bench, **changes: Any) -> Bench:
    """Three updates, the critic's warm-up left out."""
    return bench.with_ppo(**{"episodes": 3 * bench.size.ppo.batch, "critic_warmup": 0, **changes})


def test_it_learns_in_bfloat16(bench: Bench) -> None:
    """To say `1`, whatever is asked: a lesson that takes any model a few updates."""
    seen: dict[str, set[torch.dtype]] = {"linear": set(), "logits": set()}

    def note(kind: str) -> Callable[..., None]:
        return lambda module, given, out: seen[kind].add(out.dtype)

    one, end = bench.tokenizer.convert_tokens_to_ids("1"), bench.tokenizer.eos_token_id

    def learned(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([1.0 if list(answer) == [one, end] else -1.0 for answer in answers])

    with quiet():
        trainer = bench.trainer(1, score=KnownReward(learned, {}))
        policy = trainer.inner.policy
        layers = [m for n, m in policy.named_modules() if n.endswith("down_proj.base_layer")]
        for layer in layers:
            layer.register_forward_hook(note("linear"))
        head = output_head(policy)
        assert head is not None
        head.register_forward_hook(note("logits"))
        trainer.train()
    history = trainer.history
    assert seen == {"linear": {torch.bfloat16}, "logits": {torch.float32}}
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}
    assert {p.dtype for p in trainable(trainer.inner)} == {torch.float32}
    assert all(v.dtype == torch.float32 for s in trainer.optimizer.state.values() for v in s.values())
    assert all(math.isfinite(value) for entry in history for value in entry.values())
    quarter = len(history) // 4
    assert mean(history[-quarter:], "objective/scores") > mean(history[:quarter], "objective/scores") + 0.5


def test_at_first_it_is_the_reference(bench: Bench) -> None:
    """The penalty begins with nothing to punish, though policy and reference round in their own ways."""
    first = trained(bench.with_ppo(episodes=bench.size.ppo.batch)).history[0]
    assert abs(first["objective/kl"]) < 0.01
    assert first["approx_kl"] < 0.01


def test_its_metrics_are_near_those_of_single_precision(bench: Bench) -> None:
    ours = trained(short(bench)).history
    exact = trained(short(bench, precision="float32")).history
    assert ours != exact
    for mine, other in zip(ours, exact, strict=True):
        assert mine["objective/scores"] == pytest.approx(other["objective/scores"], abs=0.25)
        assert mine["objective/kl"] == pytest.approx(other["objective/kl"], abs=0.15)
        assert mine["loss/value"] == pytest.approx(other["loss/value"], rel=0.2, abs=0.02)
        assert mine["entropy"] == pytest.approx(other["entropy"], rel=0.1)


def test_a_training_that_is_interrupted_carries_on(bench: Bench, tmp_path: Path) -> None:
    bench = short(bench)
    whole = trained(bench)

    def interrupt(done: int) -> None:
        if done == 2 * bench.size.ppo.batch:
            raise KeyboardInterrupt

    keep = {"state_folder": tmp_path, "keep_state": lambda update: True}
    with pytest.raises(KeyboardInterrupt):
        trained(bench, on_update=interrupt, **keep)
    state = latest(tmp_path)
    assert state is not None and state.values["update"] == 1
    assert {tensor.dtype for tensor in state.tensors.values()} == {torch.float32}
    begun: list[int] = []
    resumed = trained(bench, on_update=begun.append, **keep)
    assert begun[0] == 2 * bench.size.ppo.batch
    with quiet():
        start = _weights(bench.trainer(1))
    moved = (_weights(whole) - start).norm()
    assert moved > 0
    # A GPU adds up in no fixed order, and Adam's first steps are as long whatever the gradient.
    assert (_weights(resumed) - _weights(whole)).norm() <= (0.3 * moved if GPU else 0)


def _weights(trainer: PPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in trainable(trainer.inner)])


def test_where_memory_does_not_suffice_fewer_rows_go_at_once(bench: Bench) -> None:
    """Memory is taken away from the large model; the small one says that an eighth of a batch is all it takes."""
    bench = short(bench)
    batch, large = bench.size.ppo.batch, bench.parameters > LARGE
    plenty = trained(bench).history
    if large:
        with peak_memory() as few:
            trained(bench.with_ppo(part=batch // 8))
        with peak_memory() as many:
            trained(bench)
        assert few.bytes is not None and many.bytes is not None
        limit = (few.bytes + many.bytes) / 2 / torch.cuda.get_device_properties(0).total_memory

    def refuse(module: Any, given: Any, named: Mapping[str, Any]) -> None:
        if len(named["input_ids"]) > batch // 8:
            raise torch.OutOfMemoryError("no memory")

    with quiet(), peak_memory():
        trainer = bench.trainer(1)
    if large:
        torch.cuda.set_per_process_memory_fraction(limit)
    else:
        trainer.inner.policy.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        with pytest.warns(RuntimeWarning, match="its batch stays the same"):
            trainer.train()
    finally:
        if large:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.part.rows < batch
    assert len(trainer.history) == len(plenty)
    for mine, other in zip(trainer.history, plenty, strict=True):
        assert mine["objective/scores"] == pytest.approx(other["objective/scores"], abs=0.25)


def test_recomputed_activations_change_no_result(bench: Bench) -> None:
    plain, kept = _improved(short(bench))
    again, recomputed = _improved(short(bench, gradient_checkpointing=True))
    for mine, other in zip(again, plain, strict=True):
        assert mine == pytest.approx(other, abs=0.05 if GPU else 1e-6)
    if GPU and bench.parameters > LARGE:
        assert recomputed < 0.8 * kept


def _improved(bench: Bench) -> tuple[list[dict[str, float]], int]:
    """What a training records, and the most memory that learning from an update took beyond what was there before.

    Sampling takes as much whatever is recomputed, so it is left out, and so is the first update, with Adam's averages.
    """
    with quiet():
        trainer = bench.trainer(1)
    improve, taken = trainer.improve, list[int]()

    def measured(experience: Experience) -> torch.Tensor:
        with peak_memory() as peak:
            before = torch.cuda.memory_allocated() if GPU else 0
            found = improve(experience)
        taken.append((peak.bytes or before) - before)
        return found

    trainer.improve = measured  # type: ignore[method-assign]
    with quiet():
        trainer.train()
    return trainer.history, max(taken[1:])


@pytest.mark.gpu
def test_memory_is_what_the_sizes_say(bench: Bench) -> None:
    """Two bytes a frozen weight, sixteen a trained one (with its gradient and two averages); activations of 8 rows."""
    few = short(bench, part=8)
    with peak_memory() as peak:
        before = torch.cuda.memory_allocated()
        trainer = trained(few)
    policy, ensemble, shape = trainer.inner.policy, trainer.reward_model, bench.size.model
    changing = sum(p.numel() for p in trainable(policy))
    weights = 2 * (parameters(policy) - changing) + 16 * changing + 2 * parameters(trainer.ref_model)
    weights += 2 * parameters(ensemble)
    # Embeddings, heads and norms stay in single precision.
    words = policy.config.vocab_size * shape.width
    weights += 2 * (2 * 2 * words + len(ensemble.centre) * words)
    tokens = 8 * (max(map(len, bench.prompts)) + 2)
    activations = KEPT * tokens * shape.layers * shape.width
    assert peak.bytes is not None
    assert peak.bytes - before < weights + activations + WORKSPACE


@pytest.mark.parametrize("method", ["linear", "lora", "full"])
def test_what_is_published_is_what_was_trained(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """The whole stage: weights that have been on the device are written, loaded and compute the same."""
    if bench.size.model.width > MAX_RANK and method == "linear":
        pytest.skip("too wide to be published exactly")
    kept: list[Any] = []

    def save(policy: Any, *rest: Any) -> None:
        kept.append(policy)
        save_policy(policy, *rest)

    monkeypatch.setattr("distill.ppo.save_policy", save)
    config = bench.size.adapter.model_copy(update={"method": method})
    settings = short(bench).size.ppo
    told = train_ppo(bench.base, None, bench.reward, bench.questions, config, settings, tmp_path, 1, silent)
    assert told["precision"] == "bfloat16"
    with quiet():
        published, before = load_merged(bench.base, tmp_path), load_merged(bench.base, None)
    trained, loaded, base = (_first_tokens(model, bench.prompts[:64]) for model in (kept[0], published, before))
    assert (trained - loaded).abs().max() < 0.05
    assert (base - loaded).abs().max() > 0.1
    # Carried on, it is its own reference at first, though an adapter and merged weights are rounded differently.
    still = settings.model_copy(update={"critic_warmup": 9})
    again = train_ppo(bench.base, tmp_path, bench.reward, bench.questions, config, still, tmp_path / "2", 1, silent)
    assert abs(again["kl"]) < 0.01


@torch.no_grad()
def _first_tokens(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Probabilities [n, vocabulary] of each answer's first token."""
    ids = padded(prompts, 0)
    ends = ends_of(ids, torch.tensor([len(prompt) for prompt in prompts]))
    return at_states(model, ids.to(model.device), ends.to(model.device)).softmax(-1).cpu()


def test_the_benchmark_measures_what_it_says(bench: Bench) -> None:
    found = json.loads(json.dumps(measure(short(bench, episodes=2 * bench.size.ppo.batch), repeats=1).as_dict()))
    assert found["precision"] == "bfloat16"
    assert found["parameters"] == bench.parameters
    assert found["ratio"] > 0
    assert found["utilisation"] > 0
    assert found["utilisation"] < 1 or not GPU  # of what a CPU can do others may have had a part when that was measured
    memory = [found[f"{name}peak_memory_gib"] for name in ("", "trl_", "trl_without_gc_")]
    assert all(value > 0 for value in memory) if GPU else memory == [None, None, None]


def test_every_size_has_a_configuration() -> None:
    assert set(SIZES) == set(get_args(Size))


@pytest.mark.skipif(GPU, reason="it would be measured")
def test_the_large_size_is_refused_without_a_gpu() -> None:
    with pytest.raises(InputError, match="without a GPU"):
        ppo(Settings(ServingConfig(), size="100m"))
