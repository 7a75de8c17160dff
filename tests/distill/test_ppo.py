"""PPO: a good reward makes good answers likelier, and what is saved is what was trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from amplification.errors import InputError
from distill.config import PPOSettings
from distill.ppo import train_ppo
from distill.practice import Prompt
from distill.weights import load_merged, load_tokenizer, prompt_ids, save_policy
from tests.distill.training import FULL, LINEAR, LORA, TASKS, digits, greedy, silent, spread

SHORT = PPOSettings(episodes=64, batch=32, critic_warmup=0, learning_rate=1e-3)


EPISODES = 4096


def good_share(base: Path, agent: Path | None) -> float:
    """Probability of the right answer, over the training questions."""
    texts = digits()
    rows = spread(base, agent, texts)
    return sum(row[TASKS["summing"].truth(text)] for text, row in zip(texts, rows, strict=True)) / len(texts)


@pytest.fixture(scope="module")
def practised(base: Path, reward: Path) -> tuple[Path, dict[str, Any]]:
    """An agent that has practised from the base's even spread."""
    settings = PPOSettings(
        episodes=EPISODES, batch=128, minibatches=4, critic_warmup=2, learning_rate=3e-3, value_learning_rate=3e-3
    )
    folder = base.parent / "practised"
    return folder, train_ppo(base, None, reward, digits(), LINEAR, settings, folder, 1, silent)


def test_good_answers_become_likelier(base: Path, practised: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = practised
    assert good_share(base, None) < 0.15
    assert good_share(base, folder) > 0.5
    assert metrics["reward_after"] > metrics["reward_before"] + 1
    assert math.isfinite(metrics["kl"])
    assert metrics["kl"] > 0
    assert metrics["entropy"] < 1.5


def test_everything_is_counted(base: Path, practised: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = practised
    prompts = prompt_ids(load_tokenizer(base), digits())
    each = sum(map(len, prompts)) / len(prompts) + 1  # an answer; behind its end nothing is predicted
    assert metrics["episodes"] == EPISODES
    assert each - 0.5 < metrics["tokens_per_episode"] < each + 0.05  # some answers end without a word
    each = metrics["tokens_per_episode"]
    assert metrics["forward_tokens"] == pytest.approx(EPISODES * each * 2)
    assert metrics["train_tokens"] == pytest.approx(EPISODES * each * 2)
    # Two members; an answer that an update has twice is scored once, its end goes through, and prompts are shared.
    assert EPISODES * 0.2 < metrics["reward_tokens"] < EPISODES * (each + 1) * 2
    assert metrics["parameters"] == sum(p.numel() for p in load_merged(base, None).parameters())


def test_answers_to_one_prompt_teach_each_other(base: Path, reward: Path, tmp_path: Path) -> None:
    """From the base's even spread to the right answers, in updates whose episodes share their prompts."""
    prompts = [Prompt(text, "summing/1", TASKS["summing"].truth(text)) for text in digits()]
    settings = PPOSettings(
        episodes=200 * 512, batch=512, answers=32, prompts="hardest", epochs=1, learning_rate=3e-3, temperature=1.3
    )
    metrics = train_ppo(base, None, reward, prompts, LINEAR, settings, tmp_path, 1, silent)
    assert good_share(base, tmp_path) > 0.9
    assert metrics["reward_tokens"] == 0  # H^A has answered all of them
    assert metrics["prompts"] == 200 * 16
    each = sum(map(len, prompt_ids(load_tokenizer(base), digits()))) / len(digits())
    # A prompt and its distinct answers, for 32 episodes.
    assert each / 32 < metrics["tokens_per_episode"] < (each + 12) / 32
    assert metrics["train_tokens"] == pytest.approx(metrics["tokens_per_episode"] * metrics["episodes"])


def test_a_policy_that_is_certain_learns_an_answer_that_it_is_shown(
    base: Path, warm: Path, reward: Path, tmp_path: Path
) -> None:
    """At this temperature it says one thing alone, and H^A another. What is shown is not its feat."""
    said = dict(zip(digits(), greedy(base, warm, digits()), strict=True))
    other = {text: f"{(int(answer) + 1) % 10}" for text, answer in said.items()}
    settings = PPOSettings(batch=80, answers=8, epochs=1, learning_rate=5e-3, temperature=0.05, kl_coefficient=0.0)

    def practised(name: str, updates: int, answers: dict[str, str]) -> dict[str, Any]:
        prompts = [Prompt(text, "summing/1", answer) for text, answer in answers.items()]
        some = settings.model_copy(update={"episodes": updates * settings.batch})
        return train_ppo(base, warm, reward, prompts, LINEAR, some, tmp_path / name, 1, silent)

    first = practised("first", 1, other)
    assert first["reward_after"] == -1.0
    assert first["entropy"] < 0.01
    assert first["kl"] == pytest.approx(0.0, abs=1e-3)
    assert not practised("learned", 120, other)["collapsed"]
    assert dict(zip(digits(), greedy(base, tmp_path / "learned", digits()), strict=True)) == other
    # An answer that is too long to be explored is not shown.
    assert practised("not shown", 120, dict.fromkeys(other, "7 7 7"))["collapsed"]


def test_an_update_of_several_answers_is_what_an_update_of_rows_is(base: Path, reward: Path, tmp_path: Path) -> None:
    """The tree changes what a batch costs and not what is learned: with parts of one prompt, the same weights."""
    settings = SHORT.model_copy(update={"answers": 8, "temperature": 2.0, "epochs": 1})
    for name, part in (("one", 1), ("all", 64)):
        rows = settings.model_copy(update={"part": part})
        train_ppo(base, None, reward, digits(), FULL, rows, tmp_path / name, 1, silent)
    one, together, begun = (
        torch.cat([p.detach().flatten() for p in load_merged(base, where).parameters()])
        for where in (tmp_path / "one", tmp_path / "all", None)
    )
    # All weights together: AdamW's first steps are as long where a gradient is nothing but rounding.
    assert float((one - together).norm()) < 0.05 * float((one - begun).norm())


@pytest.mark.parametrize("config", [LINEAR, LORA, FULL], ids=lambda c: c.method)
def test_what_is_saved_answers_as_what_was_trained(
    base: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    kept: list[Any] = []

    def save(policy: Any, *rest: Any) -> None:
        kept.append(policy)
        save_policy(policy, *rest)

    monkeypatch.setattr("distill.ppo.save_policy", save)
    train_ppo(base, None, reward, digits(), config, SHORT, tmp_path, 1, silent)
    tokenizer, texts = load_tokenizer(base), digits()
    settings = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
    for text, row, saved in zip(texts, prompt_ids(tokenizer, texts), greedy(base, tmp_path, texts), strict=True):
        said = kept[0].generate(input_ids=torch.tensor([row]), generation_config=settings)
        assert tokenizer.convert_ids_to_tokens(int(said[0, len(row)])) == saved, text


def test_a_reference_that_nothing_needs_is_asked_now_and_then(
    base: Path, warm: Path, reward: Path, tmp_path: Path
) -> None:
    """A bound that is never met has it asked in each update: the same agent, the same KL at the end, more tokens."""
    settings = SHORT.model_copy(update={"episodes": 20 * SHORT.batch, "kl_coefficient": 0.0})
    told = {}
    for name, bound in (("seldom", None), ("always", 1e6)):
        each = settings.model_copy(update={"max_kl": bound})
        told[name] = train_ppo(base, warm, reward, digits(), LINEAR, each, tmp_path / name, 1, silent)
    a, b = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("seldom", "always"))
    assert a == b
    tokens = told["always"]["train_tokens"] / settings.epochs
    # And in one more at the end, whose rollouts are counted with it.
    assert told["always"]["forward_tokens"] == pytest.approx((2 + 2 / 20) * tokens, rel=0.01)
    assert told["seldom"]["forward_tokens"] == pytest.approx((1 + 2 / 20) * tokens, rel=0.05)  # updates 4 and 20
    # Means over one update and over five, of an estimate that may be negative.
    assert told["seldom"]["kl"] == pytest.approx(told["always"]["kl"], abs=0.2)
    assert told["seldom"]["kl"] != 0


def test_equal_seeds_give_equal_adapters(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_ppo(base, warm, reward, digits(), LINEAR, SHORT, tmp_path / name, seed, silent)
    a, b, c = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_the_critic_learns_alone_at_first(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    settings = PPOSettings(episodes=64, batch=32, critic_warmup=2)
    metrics = train_ppo(base, warm, reward, digits(), LINEAR, settings, tmp_path, 1, silent)
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert greedy(base, tmp_path, digits()) == greedy(base, warm, digits())


def test_no_episodes_leave_the_agent_as_it_was(base: Path, warm: Path, reward: Path, tmp_path: Path) -> None:
    metrics = train_ppo(base, warm, reward, digits(), LINEAR, PPOSettings(episodes=0), tmp_path, 1, silent)
    assert metrics["episodes"] == 0
    assert spread(base, tmp_path, digits())[0] == pytest.approx(spread(base, warm, digits())[0], abs=1e-5)


def test_fewer_questions_than_a_batch_are_enough(base: Path, reward: Path, tmp_path: Path) -> None:
    metrics = train_ppo(base, None, reward, digits()[:3], LINEAR, SHORT, tmp_path, 1, silent)
    assert metrics["episodes"] == 64
    with pytest.raises(InputError, match="practise"):
        train_ppo(base, None, reward, [], LINEAR, SHORT, tmp_path, 1, silent)


def test_nothing_is_printed(base: Path, reward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_ppo(base, None, reward, digits(), LINEAR, SHORT, tmp_path, 1, silent)
    assert capsys.readouterr() == ("", "")
