"""Answers that obey a JSON schema, and their log-probabilities, on models that have learnt nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from amplification.errors import InputError
from amplification.serving.base import Call, ModelRef, Sampler, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.schema import Schemas
from amplification.serving.transformers import TransformersSampler
from amplification.serving.vllm import VLLMSampler

# The lone quotation mark leads nowhere: no token says `answer"`.
JSON_WORDS = ["{", "}", "[", "]", ":", ",", '"', '"answer"', '"sure"', '"yes"', '"no"', "true", "false", "1", "2", "30"]
ANSWER = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 30}, "minItems": 2, "maxItems": 3}
TEXT = {"type": "string", "minLength": 1, "maxLength": 5}


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *JSON_WORDS, *(f"w{i}" for i in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(['the answer is {"answer": "yes", "sure": true}'] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def save_model(folder: Path, tokenizer: Any) -> ModelRef:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # as in models whose vocabulary is padded
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.mul_(4)
    model.save_pretrained(folder)
    return ModelRef(str(folder))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return save_model(tmp_path_factory.mktemp("words"), word_tokenizer())


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return save_model(tmp_path_factory.mktemp("pieces"), byte_tokenizer())


@pytest.fixture(scope="module")
def own() -> Iterator[TransformersSampler]:
    opened = TransformersSampler(ServingConfig(backend="transformers", max_model_len=64))
    yield opened
    opened.close()


@pytest.fixture(params=["vllm", "transformers"])
def back_end(request: pytest.FixtureRequest) -> Sampler:
    opened: Sampler = request.getfixturevalue("sampler" if request.param == "vllm" else "own")
    return opened


def asked(schema: object, temperature: float = 0.0, tokens: int = 40, logprob: bool = False) -> SamplingParams:
    text = None if schema is None else json.dumps(schema)
    return SamplingParams(tokens, temperature, json_schema=text, logprob=logprob)


def obeys(schema: object, answer: Any) -> bool:
    if schema == ANSWER:
        return (
            set(answer) == {"answer", "sure"} and answer["answer"] in ("yes", "no") and answer["sure"] in (True, False)
        )
    if schema == NUMBERS:
        return len(answer) in (2, 3) and all(isinstance(n, int) and 1 <= n <= 30 for n in answer)
    return isinstance(answer, str) and bool(answer)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_parse_and_obey(back_end: Sampler, words: ModelRef, pieces: ModelRef, temperature: float) -> None:
    kinds = [(words, ANSWER), (words, NUMBERS), (pieces, ANSWER), (pieces, NUMBERS), (pieces, TEXT)]
    calls = [
        Call(model, f"w{i} {i}", asked(schema, temperature), sample)
        for model, schema in kinds
        for i in range(4)
        for sample in range(2)
    ]
    plain = [Call(words, f"w{i}", asked(None, temperature, 4)) for i in range(3)]
    got = back_end.sample([*calls, *plain])
    for (_, schema), i in zip(kinds, range(0, len(calls), 8), strict=True):
        for completion in got[i : i + 8]:
            assert completion.error is None and completion.finished
            assert obeys(schema, json.loads(completion.text)), completion.text
    assert len({completion.text for completion in got}) > 10
    assert got[len(calls) :] == back_end.sample(plain)


def test_both_back_ends_say_the_same(
    sampler: VLLMSampler, own: TransformersSampler, words: ModelRef, pieces: ModelRef
) -> None:
    calls = [Call(m, f"w{i}", asked(s)) for m in (words, pieces) for s in (ANSWER, NUMBERS) for i in range(6)]
    assert sampler.sample(calls) == own.sample(calls)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ('{"type": "object", "properties": {"why": {"type": "null"}}, "required": ["why"]}', "no tokens to write"),
        ('{"type": "string", "minLength": 1, "maxLength": 0}', ""),
        ('{"type": "array", "uniqueItems": true}', "'uniqueItems' cannot be kept"),
        ('{"type": "object", "properties": {"not": {"not": {}}}}', "'not' cannot be kept"),
        ('{"anyOf": [{"type": "null"}], "minimum": 3, "type": "integer"}', "'minimum' cannot be kept beside 'anyOf'"),
        ('{"type": "object", "required": ["why"]}', "'why' is required"),
        ('{"minimum": 3}', "without a 'type'"),
        ('{"type": "strng"}', "is not a schema"),
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_what_cannot_be_kept_is_the_users_mistake(
    back_end: Sampler, words: ModelRef, schema: str, problem: str
) -> None:
    with pytest.raises(InputError, match=rf"^json_schema: .*{problem}"):
        back_end.sample([Call(words, "w1", SamplingParams(json_schema=schema))])
    assert back_end.sample([Call(words, "w1", asked(ANSWER))])[0].finished


def test_no_token_is_allowed_that_leads_nowhere() -> None:
    tokenizer = word_tokenizer()
    guide = Schemas(tokenizer, len(tokenizer)).guide(json.dumps(ANSWER))
    assert guide.accept(tokenizer.convert_tokens_to_ids("{"))
    allowed = [i for i in range(len(tokenizer)) if guide.mask()[i // 8] >> i % 8 & 1]
    assert tokenizer.convert_ids_to_tokens(allowed) == ['"answer"']
    assert not guide.accept(tokenizer.convert_tokens_to_ids("w1"))


def directly(ref: ModelRef, call: Call, tokens: Sequence[int]) -> float:
    """The sum of the tokens' log-probabilities by one forward pass over all of them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(ref.base)(call.prompt)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(ref.base).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(tokens)), list(tokens)].sum())


def tokens_of(ref: ModelRef, text: str, finished: bool) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ref.base)
    return [*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if finished else [])]


@pytest.mark.parametrize("schema", [None, ANSWER, NUMBERS])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probabilities_are_those_of_a_forward_pass(
    back_end: Sampler, words: ModelRef, schema: object, temperature: float
) -> None:
    """Of the model's own distribution: neither the temperature nor the schema's mask is in them."""
    long = " ".join(f"w{i % 40}" for i in range(40))  # longer than a block of the prefix cache
    prompts = [*(f"w1 w2 w{i}" for i in range(24)), long, f"{long} w7", long]
    calls = [Call(words, prompt, asked(schema, temperature, 12, logprob=True)) for prompt in prompts]
    bare = back_end.sample([Call(c.model, c.prompt, asked(schema, temperature, 12)) for c in calls])
    checked = 0
    for call, got, other in zip(calls, back_end.sample(calls), bare, strict=True):
        assert got.text == other.text and other.logprob is None and got.logprob is not None
        tokens = tokens_of(words, got.text, got.finished)
        if len(tokens) == got.completion_tokens:  # else special tokens were drawn, which the text does not show
            assert got.logprob == pytest.approx(directly(words, call, tokens), abs=1e-3)
            checked += 1
    assert checked > 5


def test_a_stopped_answer_counts_its_stop(back_end: Sampler, words: ModelRef) -> None:
    text = back_end.sample([Call(words, "w3 w4", asked(None, tokens=6))])[0].text.split()
    stop = SamplingParams(max_tokens=6, stop=(text[2],), logprob=True)
    got = back_end.sample([Call(words, "w3 w4", stop)])[0]
    tokens = tokens_of(words, " ".join(text), False)[: got.completion_tokens]
    assert got.logprob == pytest.approx(directly(words, Call(words, "w3 w4", stop), tokens), abs=1e-3)
