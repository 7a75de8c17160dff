"""The base model: a tiny Llama that knows the form of questions and answers and no facts, or a pretrained model.

"Even spread": asked any question of any task and level, the base gives each answer of the right form the same
probability, so that PPO has something to explore and no agent starts with knowledge that nobody gave it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from amplification.errors import InputError
from amplification.serving.checkpoint import REFERENCE_FILE, read_base
from amplification.tasks.attack_families import sampled
from amplification.tasks.base import NONSENSE, Task, split_of
from distill.config import BaseConfig, ModelConfig
from distill.progress import Progress
from distill.weights import (
    padded,
    parameters,
    prompt_ids,
    quiet,
    require_finite,
    require_safetensors,
)
from prompts import render

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
HEAD_SIZES = (32, 64)
# Share of the base's training questions that are cut or mixed up, so that they make no sense.
MALFORMED = 0.25
WARM_UP = 20
CLIP = 1.0
EMBEDDING_STD = 0.1
# What is fetched of a hub model: everything but pickled weights and other frameworks' files.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# Rows that go through the model together; a batch is sorted by length and cut into such parts.
PART = 32


def make_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, words split at white space; `<bos>` goes in front of a prompt and nothing goes behind.

    Padding is a token of its own, never the end of sequence, which training would otherwise not see.
    """
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys([PAD, BOS, EOS, UNKNOWN, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A Llama with fresh weights. Raises InputError unless each head is 32 or 64 wide, which serving needs."""
    if config.width % config.heads or config.width // config.heads not in HEAD_SIZES:
        problem = f"width {config.width} over {config.heads} heads makes heads of {config.width / config.heads:g}"
        raise InputError("model.heads", problem, f"choose width and heads for heads of {HEAD_SIZES[0]} or 64")
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.width // config.heads,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # The library's 0.02 leaves a model this narrow nearly silent at first, and it learns several times slower.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    torch.nn.init.normal_(model.lm_head.weight, std=EMBEDDING_STD)
    return model


def train_base(
    tasks: Mapping[str, Task],
    words: Sequence[str],
    model_config: ModelConfig,
    base_config: BaseConfig,
    out: str | Path,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Write a base model and its tokenizer into `out`; for a pretrained one, check it and write where it is.

    The tokenizer knows `words` and those of the prompt's frame. Metrics: loss of the answers and its floor in nats
    (equal when the spread is even), tokens, parameters.
    Raises InputError for a shape that cannot be served or a pretrained model that cannot be used.
    """
    with quiet():
        if model_config.pretrained is not None:
            return adopt_pretrained(model_config.pretrained, Path(out))
        tokenizer = make_tokenizer([*render("direct", question="").split(), *words])
        model = make_model(model_config, tokenizer, seed)
        metrics = _train_form(model, tokenizer, list(tasks.values()), base_config, seed, progress)
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
    return metrics


def adopt_pretrained(name: str, out: Path) -> dict[str, Any]:
    """Check that a hub model or a local folder can be used as a base and refer to it; copy it if it must change.

    It is changed where its padding token is missing or ends sequences too: it then gets a padding token of its own.
    """
    if Path(name).is_dir():
        require_safetensors(name)
    try:
        if not Path(name).is_dir():
            snapshot_download(name, allow_patterns=HUB_FILES)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        problem = f"'{name}' cannot be loaded ({str(error).splitlines()[0][:120]})"
        raise InputError("model.pretrained", problem, "give a folder or hub name of a language model") from error
    if tokenizer.eos_token_id is None:
        raise InputError("model.pretrained", f"the tokenizer of '{name}' has no end-of-sequence token", "use another")
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        where = str(Path(name).resolve()) if Path(name).is_dir() else name
        size = read_base(where).parameters
        (out / REFERENCE_FILE).write_text(json.dumps({"pretrained": where}), encoding="utf-8")
        return {"forward_tokens": 0, "train_tokens": 0, "parameters": size}
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True)
    tokenizer.add_special_tokens({"pad_token": PAD})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    return {"forward_tokens": 0, "train_tokens": 0, "parameters": parameters(model)}


def form_examples(tasks: Sequence[Task], count: int, rng: random.Random) -> list[tuple[str, tuple[str, ...]]]:
    """Training questions of every task and level, a share of them malformed, each with the answers of its form.

    A malformed question keeps the answers of the question it was made from: that it makes no sense is a fact.
    """
    examples = []
    for number in range(count):
        task = tasks[number % len(tasks)]
        text = sampled(task, (rng.choice(task.levels),), "train", rng)
        answers = (*task.valid_answers(text), NONSENSE)
        changed = _malformed(text, task, rng) if rng.random() < MALFORMED else text
        # A change can make another question of the task, which may be a held-out one.
        held_out = task.level_of(changed) is not None and split_of(task, changed) == "held_out"
        examples.append((text if held_out else changed, answers))
    return examples


def _malformed(text: str, task: Task, rng: random.Random) -> str:
    words = text.split()
    for _ in range(rng.randint(1, 3)):
        here, there = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(4):
            case 0 if len(words) > 1:
                del words[here]
            case 1:
                words.insert(here, rng.choice(task.words()))
            case 2:
                words[here], words[there] = words[there], words[here]
            case _:
                words[here] = rng.choice(task.words())
    return " ".join(words)


def _train_form(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    settings: BaseConfig,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Learn which words follow which in a question, and the even spread over answers.

    The spread itself is the target, which is the mean over evenly drawn answers without their noise. Words of
    questions are learned because they form features that make every later lesson several times shorter.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    vocabulary = tokenizer.get_vocab()
    rng = random.Random(f"{seed}/base")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    tokens, loss, floor = 0, math.nan, math.nan
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / WARM_UP, 1.05 - step / settings.steps)
        # Sorted by length and split, so that little of a batch is padding.
        examples = sorted(form_examples(tasks, settings.batch, rng), key=lambda example: len(example[0].split()))
        loss, floor = 0.0, sum(math.log(len(answers)) for _, answers in examples) / len(examples)
        for start in range(0, len(examples), PART):
            part = examples[start : start + PART]
            rows = prompt_ids(tokenizer, [question for question, _ in part])
            tokens += sum(len(row) + 1 for row in rows)
            at_words, at_answer = _form_loss(model, rows, [answers for _, answers in part], vocabulary, rng)
            ((at_words + at_answer) * len(part) / len(examples)).backward()
            loss += float(at_answer.detach()) * len(part) / len(examples)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        progress(step + 1, settings.steps)
    require_finite(model, "base.learning_rate")
    return {
        "loss": loss,
        "loss_floor": floor,
        "forward_tokens": 0,
        "train_tokens": tokens,
        "parameters": parameters(model),
    }


def _form_loss(
    model: LlamaForCausalLM,
    rows: list[list[int]],
    answers: Sequence[Sequence[str]],
    vocabulary: Mapping[str, int],
    rng: random.Random,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of the questions' words, and of the answers' tokens and ends against the even spread."""
    device = model.device
    ids = padded([[*row, vocabulary[rng.choice(a)]] for row, a in zip(rows, answers, strict=True)], vocabulary[PAD])
    ids = ids.to(device)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    spread = torch.zeros(len(rows), model.config.vocab_size)
    for row, choices in enumerate(answers):
        spread[row, [vocabulary[choice] for choice in choices]] = 1 / len(choices)
    # No attention mask: padding is on the right, where a causal model does not look.
    logits = model(input_ids=ids, use_cache=False).logits
    each = torch.arange(len(rows), device=device)
    words = ids[:, 1:].masked_fill(torch.arange(1, ids.shape[1], device=device) > last[:, None], -100)
    at_words = functional.cross_entropy(logits[:, :-1].flatten(0, 1), words.flatten())
    at_answer = functional.cross_entropy(logits[each, last], spread.to(device))
    end = torch.full((len(rows),), vocabulary[EOS], device=device)
    return at_words, at_answer + functional.cross_entropy(logits[each, last + 1], end)
