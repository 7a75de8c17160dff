"""TransformersSampler: agents on transformers' own generation. Slow for long answers, but runs wherever torch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import Checkpoint, Shelf, weights
from amplification.serving.config import ServingConfig
from amplification.serving.draws import draw_seed, own_draws
from amplification.serving.process import same_random_state
from amplification.serving.schema import Guide, Schemas, unpacked
from amplification.serving.text import Text

if TYPE_CHECKING:
    import torch


@dataclass
class Loaded:
    """A model in memory; `holds` says whose weights it has at the moment."""

    model: Any
    text: Text
    schemas: Schemas
    ends: frozenset[int]
    pad: int
    holds: ModelRef


@dataclass
class Row:
    """What a model made of one prompt: its tokens with their end, the sum of their log-probabilities if asked for."""

    tokens: list[int]
    logprob: float | None = None
    dead: bool = False


class TransformersSampler:
    """One model in memory a base, into which adapters are merged; prompts of one length or nearly so share a batch."""

    def __init__(self, settings: ServingConfig) -> None:
        if settings.adapters == "lora":
            problem = "'lora' is not for the transformers back end, which merges adapters"
            raise InputError("serving.adapters", problem, "set it to 'auto'")
        self.settings = settings
        self._shelf = Shelf()
        self._loaded: dict[str, Loaded] = {}

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order; a prompt that cannot be served gives a completion with an `error`.

        Raises InputError for a bad model or adapter folder before anything is asked and for a schema that the model
        cannot write, ServingError if a model fails.
        """
        models = dict.fromkeys(call.model for call in calls)
        for model in models:
            self._shelf.adapter(model)
            self._shelf.base(model)
        done: dict[int, Completion] = {}
        for model in models:
            loaded = self._hold(model)
            places = [i for i, call in enumerate(calls) if call.model == model]
            try:
                with same_random_state():
                    done.update(self._complete(loaded, places, calls))
            except InputError:
                raise
            except Exception as error:
                raise ServingError(f"the model {model.base} failed while answering: {error}") from error
        return [done[i] for i in range(len(calls))]

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters, its adapter's included. Raises InputError for a bad folder."""
        return self._shelf.parameters(model)

    def close(self) -> None:
        """Let go of the models. Harmless when repeated; the next call loads again."""
        self._loaded.clear()

    def _hold(self, model: ModelRef) -> Loaded:
        base, adapter = self._shelf.base(model), self._shelf.adapter(model)
        if base.skeleton not in self._loaded:
            self._loaded[base.skeleton] = _load(base, ModelRef(model.base), self.settings)
        loaded = self._loaded[base.skeleton]
        if loaded.holds != model:
            wanted = dict(weights(base, adapter))
            loaded.model.load_state_dict(wanted, strict=False)
            loaded.holds = model
        return loaded

    def _complete(self, loaded: Loaded, places: Sequence[int], calls: Sequence[Call]) -> dict[int, Completion]:
        prompts = loaded.text.encode([calls[i].prompt for i in places])
        done: dict[int, Completion] = {}
        groups: dict[tuple[SamplingParams, int], list[tuple[int, list[int]]]] = {}
        for i, ids in zip(places, prompts, strict=True):
            error = loaded.text.refusal(calls[i].prompt, ids)
            if error is not None:
                done[i] = Completion("", len(ids), 0, finished=False, error=error)
                continue
            room = min(loaded.text.max_model_len - len(ids), calls[i].params.max_tokens)
            groups.setdefault((calls[i].params, room), []).append((i, ids))
        for (params, longest), members in groups.items():
            members.sort(key=lambda member: len(member[1]))  # little padding in each batch
            for start in range(0, len(members), self.settings.max_num_seqs):
                batch = members[start : start + self.settings.max_num_seqs]
                rows = self._generate(loaded, [ids for _, ids in batch], [calls[i] for i, _ in batch], longest)
                for (i, ids), row in zip(batch, rows, strict=True):
                    done[i] = _completion(loaded, row, len(ids), params)
        return done

    def _generate(self, loaded: Loaded, prompts: list[list[int]], calls: Sequence[Call], longest: int) -> list[Row]:
        """New tokens of each prompt, the end token included and nothing after it."""
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[loaded.pad] * (width - len(row)) + row for row in prompts], device=loaded.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=loaded.model.device)
        params = calls[0].params
        asked = GenerationConfig(
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=sorted(loaded.ends) or None,
            pad_token_id=loaded.pad,
        )

        def met(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            # The library's own criterion does not work with tokenizers whose tokens are words.
            texts = loaded.text.decode(input_ids[:, width:].tolist(), strip=False)
            found = [any(stop in text for stop in params.stop) for text in texts]
            return torch.tensor(found, device=input_ids.device)

        processors = own_draws(params, [draw_seed(self.settings.seed, call) for call in calls])
        guided = None
        if params.json_schema is not None:
            guided = _Guided([loaded.schemas.guide(params.json_schema) for _ in calls])
            processors.insert(0, guided)
        with torch.inference_mode():
            made = loaded.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=asked,
                logits_processor=processors,
                stopping_criteria=[met] if params.stop else None,
                return_dict_in_generate=True,
                output_logits=params.logprob,
            )
        rows = [Row(_cut(row, loaded, bool(params.stop))) for row in made.sequences[:, width:].tolist()]
        for i, row in enumerate(rows):
            row.dead = guided is not None and i in guided.dead
            if params.logprob:
                chosen = [made.logits[place][i].float().log_softmax(0)[token] for place, token in enumerate(row.tokens)]
                row.logprob = float(sum(chosen))
        return rows


class _Guided:
    """A logits processor that lets through what each row's guide allows; `dead` are rows that were left nothing."""

    def __init__(self, guides: list[Guide]) -> None:
        self.guides = guides
        self.dead: set[int] = set()
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        allowed = torch.ones(scores.shape, dtype=torch.bool)
        for i, guide in enumerate(self.guides):
            if self._begun and not guide.ended and i not in self.dead:
                guide.accept(int(input_ids[i, -1]))
            if guide.ended or i in self.dead:
                continue
            mask = torch.from_numpy(unpacked(guide.mask(), scores.shape[1]))
            if mask.any():
                allowed[i] = mask
            else:
                self.dead.add(i)
        self._begun = True
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))


def _load(base: Checkpoint, holds: ModelRef, settings: ServingConfig) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging as transformers_logging

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = base.dtype if settings.dtype == "auto" else settings.dtype
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
        model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype, use_safetensors=True).to(device).eval()
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ServingError(f"transformers could not load {base.folder}: {first[0]}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    ends = frozenset([ends] if isinstance(ends, int) else ends or [])
    # Nothing else of the model's own generation settings (a repetition penalty, say) may leak into an answer.
    model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    text = Text(tokenizer, base.max_model_len(settings.max_model_len), base.vocabulary)
    return Loaded(model, text, Schemas(tokenizer, base.vocabulary), ends, pad, holds)


def _cut(row: list[int], loaded: Loaded, may_stop: bool) -> list[int]:
    for place, token in enumerate(row):
        if token in loaded.ends:
            return row[: place + 1]
    if may_stop:  # a row that met its stop string was filled up with padding
        while row and row[-1] == loaded.pad:
            row = row[:-1]
    return row


def _completion(loaded: Loaded, row: Row, prompt_tokens: int, params: SamplingParams) -> Completion:
    if row.dead:
        problem = "the model had no token left that the schema allows"
        return Completion("", prompt_tokens, len(row.tokens), finished=False, error=problem)
    text = loaded.text.decode([row.tokens], strip=False)[0]
    ends = [place for stop in params.stop if (place := text.find(stop)) >= 0]
    finished = bool(ends) or (bool(row.tokens) and row.tokens[-1] in loaded.ends)
    answer = (text[: min(ends)] if ends else text).strip()
    return Completion(answer, prompt_tokens, len(row.tokens), finished, row.logprob)
