"""RewardEnsemble: the members on disk as one scorer, and as the reward model that TRL's PPOTrainer expects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from amplification.errors import InputError, StageError
from distill.calibration import Calibration, probabilities, read_calibration
from distill.config import RewardConfig
from distill.members import BACKBONE
from distill.memory import Part
from distill.precision import SINGLE, Precision
from distill.rollout import parts
from distill.tree import Rows, answered, ends_of, rows_of
from distill.weights import answer_ids, load_tokenizer, parameters, prompt_ids, quiet, require_safetensors

# Rows that go through a member together: small enough to stay in a processor's cache.
ROWS_AT_ONCE = 64


class _Members(torch.nn.Module):
    """All members as one backbone, whose last "hidden state" is each member's raw score at each token.

    `models` are whole scorers, or one PEFT model with an adapter and a head for each of `adapters`.
    """

    def __init__(self, models: Sequence[torch.nn.Module], adapters: Sequence[str] = ()) -> None:
        super().__init__()
        self.models, self.adapters = torch.nn.ModuleList(models), tuple(adapters)

    def each(self) -> Iterator[Any]:
        """The members one after the other, as scorers; with adapters, the one at hand is the active one."""
        for model in self.models:
            if not self.adapters:
                yield model
            shared: Any = model
            for name in self.adapters:
                shared.set_adapter(name, inference_mode=True)
                yield shared.get_base_model()

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """`hidden_states[-1]` is a tensor [rows, tokens, members]."""
        inputs.pop("output_hidden_states", None)
        scores = [each.score(each.base_model(**inputs).last_hidden_state).float() for each in self.each()]
        return SimpleNamespace(hidden_states=(torch.cat(scores, dim=-1),))

    def at(self, rows: Rows) -> torch.Tensor:
        """Raw scores [S, members] at the states of some rows."""
        ids, states, extra = rows
        scores = []
        for scorer in self.each():
            hidden = scorer.base_model(input_ids=ids, use_cache=False, **extra).last_hidden_state
            scores.append(scorer.score(hidden.flatten(0, 1)[states]).float())
        return torch.cat(scores, dim=-1)


class RewardEnsemble(torch.nn.Module):
    """Conservative reward: the members' mean minus their spread, or their minimum.

    TRL's PPOTrainer looks for `base_model_prefix`, the backbone of that name and `score`, all of which are here.
    """

    base_model_prefix = "members"

    def __init__(self, members: _Members, tokenizer: PreTrainedTokenizerBase, calibration: Calibration) -> None:
        super().__init__()
        self.members = members
        self.tokenizer = tokenizer
        self.scored_tokens = 0  # that went through a member so far, for the ledger
        self.rule, self.temperature = calibration.aggregate, calibration.temperature
        self.precision = SINGLE
        # Members wait for no other process, so each may halve what goes through them at once.
        self.part = Part(ROWS_AT_ONCE)
        self.centre: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("centre", torch.tensor(calibration.centre))
        self.register_buffer("scale", torch.tensor(calibration.scale))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, base: str | Path, folder: str | Path, settings: RewardConfig | None = None) -> RewardEnsemble:
        """The ensemble in `folder` for agents over `base`, combined as when it was trained or as `settings` say.

        Raises InputError if it is incomplete, pickled or made for another tokenizer.
        """
        path = Path(folder)
        places = sorted(path.glob("member-*"), key=lambda place: int(place.name.rpartition("-")[2]))
        if not places:
            raise InputError(path, "no reward model (member-0) in this folder", "run the reward stage first")
        with quiet():
            tokenizer = load_tokenizer(base)
            for place in places:
                require_safetensors(place)
            if (path / BACKBONE).is_dir():
                shared: Any = _scorer(path / BACKBONE, tokenizer)
                model = PeftModel.from_pretrained(shared, str(places[0]), adapter_name=places[0].name)
                for place in places[1:]:
                    model.load_adapter(str(place), adapter_name=place.name)
                members = _Members([model], [place.name for place in places])
            else:
                members = _Members([_scorer(place, tokenizer) for place in places])
        calibration = read_calibration(path, len(places))
        if settings is not None:
            calibration = replace(calibration, aggregate=settings.aggregate)
        return cls(members, tokenizer, calibration)

    def compute_in(self, precision: Precision) -> None:
        """Have the members' backbones compute so; their heads, and what becomes of scores, in single precision."""
        self.precision = precision
        self.float()
        for each in self.members.models:
            model: Any = each
            scorer = model.get_base_model() if self.members.adapters else model
            precision.prepare(scorer.base_model)

    def become(self, other: RewardEnsemble) -> None:
        """Take over another ensemble's members and calibration, wherever this one is used."""
        device = self.centre.device
        other.compute_in(self.precision)
        self.members = other.members.to(device)
        self.centre, self.scale = other.centre.to(device), other.scale.to(device)
        self.rule, self.temperature = other.rule, other.temperature

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """[members, ...] -> [...]: never above the members' mean."""
        if self.rule == "minimum":
            return scores.min(dim=0).values
        return scores.mean(dim=0) - scores.std(dim=0, unbiased=False)

    def score(self, raw: torch.Tensor) -> torch.Tensor:
        """The reward at each token, [rows, tokens, 1], from the backbone's [rows, tokens, members]."""
        return self.aggregate(((raw - self.centre) / self.scale).movedim(-1, 0)).unsqueeze(-1)

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        """Each member's centred score of each answer to each question, [members, n]."""
        return self.answer_scores(prompt_ids(self.tokenizer, questions), answer_ids(self.tokenizer, answers))

    @torch.no_grad()
    def answer_scores(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Each member's centred score at the last token of each answer to its prompt, all token ids, [members, n].

        Several answers to one prompt are a tree behind it (`distill.tree`).
        """
        given = answered(prompts, answers)
        self.scored_tokens += given.tokens() * len(self.centre)
        places: list[list[int]] = [[] for _ in given.prompts]
        for place, owner in enumerate(given.owners):
            places[owner].append(place)
        lengths = [len(p) + len(tree.tokens) for p, tree in zip(given.prompts, given.trees, strict=True)]
        pad = int(self.tokenizer.pad_token_id)

        def read() -> torch.Tensor:
            raw = torch.zeros(len(answers), len(self.centre))
            for part in parts(lengths, self.part.rows):
                trees = [given.trees[owner] for owner in part]
                rows = rows_of([given.prompts[owner] for owner in part], trees, pad)
                scores = self.members.at(rows.to(self.centre.device)).cpu()
                for owner, ends in zip(part, ends_of(trees), strict=True):
                    raw[places[owner]] = scores[[ends[given.places[place]] for place in places[owner]]]
            return raw

        return ((self.part.fitting(read) - self.centre.cpu()) / self.scale.cpu()).T

    def rewards(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """The conservative reward of each answer to its prompt, all token ids, [n]."""
        return self.aggregate(self.answer_scores(prompts, answers))

    def parameters_of_member(self) -> int:
        """Parameters that a token goes through in one member; shared ones count for each."""
        each = parameters(self)
        if not self.members.adapters:
            return each // len(self.members.models)
        own = sum(p.numel() for n, p in self.named_parameters() if any(f".{a}." in n for a in self.members.adapters))
        return each - own + own // len(self.members.adapters)

    def preferences(self, questions: Sequence[str], first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """The probability that the first answer to each question is better than the second, [n] (see `calibration`)."""
        first_scores, second_scores = self.scores([*questions, *questions], [*first, *second]).chunk(2, dim=1)
        return probabilities(first_scores - second_scores, self.temperature)

    def rate(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The conservative reward of each answer to each question. Raises StageError for one that is no number."""
        values: list[float] = self.aggregate(self.scores(questions, answers)).tolist()
        if not all(map(math.isfinite, values)):
            raise StageError("the reward model gives rewards that are no numbers; train it again (distill.reward)")
        return values


def _scorer(place: Path, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """A scorer for the policy's token ids, which it is given as they are; it is read at the end of the answer.

    Raises InputError if it is pickled or made for another tokenizer or vocabulary.
    """
    require_safetensors(place)
    theirs = AutoTokenizer.from_pretrained(str(place))
    ends = [(each.eos_token_id, each.pad_token_id) for each in (theirs, tokenizer)]
    if theirs.get_vocab() != tokenizer.get_vocab() or ends[0] != ends[1]:
        problem = "this reward model was made for another tokenizer than the policy's"
        raise InputError(place, problem, "train the reward model on this run's base")
    scorer: Any = AutoModelForSequenceClassification.from_pretrained(str(place), use_safetensors=True)
    if scorer.get_input_embeddings().num_embeddings < len(tokenizer):
        problem = f"its vocabulary has fewer than the {len(tokenizer)} words of the policy's tokenizer"
        raise InputError(place, problem, "train the reward model on this run's base")
    return scorer  # type: ignore[no-any-return]
