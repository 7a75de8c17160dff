"""Answers that a model gives in this process, without a serving back end: its likeliest, or draws that a seed fixes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from amplification.question import digest
from distill.actor_critic import ActorCritic, ValueHead
from distill.memory import Part
from distill.rollout import Rollout, roll_out, uniform
from distill.utilisation import device
from distill.weights import load_merged, load_tokenizer, prompt_ids, quiet

ROWS_AT_ONCE = 64


def likeliest(model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], answer_tokens: int) -> Rollout:
    """The model's likeliest answer to each question, token by token."""
    return _answered(model, tokenizer, questions, torch.zeros(len(questions), answer_tokens + 1), 0.0)


def likeliest_answers(
    base: str | Path, agent: str | Path | None, questions: Sequence[str], answer_tokens: int = 1
) -> list[str]:
    """The likeliest answers of an agent on disk."""
    with quiet():
        tokenizer, model = load_tokenizer(base), load_merged(base, agent).to(device())
        return texts_of(tokenizer, likeliest(model, tokenizer, questions, answer_tokens))


def drawn_answers(
    base: str | Path,
    agent: str | Path | None,
    questions: Sequence[str],
    draws: int,
    answer_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[list[list[str]], int]:
    """The distinct answers among `draws` draws of an agent for each question, and how many tokens that took.

    A draw depends on the seed, the question's place and the draw's number alone.
    """
    with quiet():
        tokenizer, model = load_tokenizer(base), load_merged(base, agent).to(device())
        numbers = [int(digest(str(seed), "draw", str(draw))[:15], 16) for draw in range(draws)]
        each = torch.stack([uniform(len(questions), answer_tokens + 1, number) for number in numbers], dim=1)
        rollout = _answered(model, tokenizer, questions, each.flatten(0, 1), temperature)
    texts = texts_of(tokenizer, rollout)
    groups = [texts[start : start + draws] for start in range(0, len(texts), draws)]
    return [[text for text in dict.fromkeys(group) if text] for group in groups], rollout.tokens()


def texts_of(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> list[str]:
    """A rollout's answers as texts; one that does not end is "", which nobody accepts."""
    said = tokenizer.batch_decode(rollout.distinct.texts, skip_special_tokens=True)
    each = zip(rollout.distinct.which.tolist(), rollout.ended.tolist(), strict=True)
    return [said[place].strip() if ended else "" for place, ended in each]


def _answered(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    draws: torch.Tensor,
    temperature: float,
) -> Rollout:
    actor = ActorCritic(model, ValueHead(model.config.hidden_size).to(model.device))
    prompts = prompt_ids(tokenizer, questions)
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    training = model.training
    model.eval()  # layers that recompute activations keep no cache while they train
    part = Part(ROWS_AT_ONCE)
    try:
        return part.fitting(lambda: roll_out(actor, prompts, draws, temperature, end, pad, part.rows))
    finally:
        model.train(training)
