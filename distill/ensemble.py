"""RewardEnsemble: the members on disk as one scorer, and as the reward model that TRL's PPOTrainer expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from amplification.errors import InputError
from distill.config import RewardConfig
from distill.weights import answer_ids, load_tokenizer, padded, prompt_ids, quiet, require_safetensors

CALIBRATION_FILE = "ensemble.json"
# Rows that go through a member together: small enough to stay in a processor's cache.
ROWS_AT_ONCE = 64

REMEDY = "run the reward stage again"

Aggregate = Literal["mean_minus_spread", "minimum"]


@dataclass(frozen=True)
class Calibration:
    """What turns each member's raw score into a centred one, (raw - centre) / scale, and how members are combined."""

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    aggregate: Aggregate


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write ensemble.json."""
    (folder / CALIBRATION_FILE).write_text(json.dumps(asdict(calibration)), encoding="utf-8")


def read_calibration(folder: Path, members: int) -> Calibration:
    """Read ensemble.json. Raises InputError if it is missing, malformed or for another number of members."""
    file = folder / CALIBRATION_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        centre, scale = ([float(v) for v in values[key]] for key in ("centre", "scale"))
        aggregate = values["aggregate"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(file, "missing or not what the reward stage writes", REMEDY) from error
    if not len(centre) == len(scale) == members or aggregate not in get_args(Aggregate):
        raise InputError(file, f"it does not fit the {members} members beside it", REMEDY)
    return Calibration(tuple(centre), tuple(scale), aggregate)


class _Members(torch.nn.Module):
    """All members as one backbone, whose last "hidden state" is each member's raw score at each token."""

    def __init__(self, members: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """`hidden_states[-1]` is a tensor [rows, tokens, members]."""
        inputs.pop("output_hidden_states", None)
        scores = []
        for member in self.members:
            scorer: Any = member
            scores.append(scorer.score(scorer.base_model(**inputs).last_hidden_state).float())
        return SimpleNamespace(hidden_states=(torch.cat(scores, dim=-1),))

    def at(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Raw scores [rows, members] at one token of each row. No attention mask: padding is on the right."""
        rows = torch.arange(len(ids), device=ids.device)
        scores = []
        for member in self.members:
            scorer: Any = member
            hidden = scorer.base_model(input_ids=ids, use_cache=False).last_hidden_state
            scores.append(scorer.score(hidden[rows, last]).float())
        return torch.cat(scores, dim=-1)


class RewardEnsemble(torch.nn.Module):
    """Conservative reward: the members' mean minus their spread, or their minimum.

    TRL's PPOTrainer looks for `base_model_prefix`, the backbone of that name and `score`, all of which are here.
    """

    base_model_prefix = "members"

    def __init__(
        self, members: Sequence[torch.nn.Module], tokenizer: PreTrainedTokenizerBase, calibration: Calibration
    ) -> None:
        super().__init__()
        self.members = _Members(members)
        self.tokenizer = tokenizer
        self.rule = calibration.aggregate
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
        members = []
        with quiet():
            tokenizer = load_tokenizer(base)
            for place in places:
                require_safetensors(place)
                if AutoTokenizer.from_pretrained(str(place)).get_vocab() != tokenizer.get_vocab():
                    problem = "this reward model was made for another tokenizer than the policy's"
                    raise InputError(place, problem, "train the reward model on this run's base")
                members.append(AutoModelForSequenceClassification.from_pretrained(str(place), use_safetensors=True))
        calibration = read_calibration(path, len(members))
        if settings is not None:
            calibration = replace(calibration, aggregate=settings.aggregate)
        return cls(members, tokenizer, calibration)

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
        prompts = prompt_ids(self.tokenizer, questions)
        return self.row_scores([p + a for p, a in zip(prompts, answer_ids(self.tokenizer, answers), strict=True)])

    @torch.no_grad()
    def row_scores(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Each member's centred score at the last token of each row of token ids, [members, n]."""
        raw = torch.zeros(len(rows), len(self.centre))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = order[start : start + ROWS_AT_ONCE]
            ids = padded([rows[index] for index in part], int(self.tokenizer.pad_token_id)).to(self.centre.device)
            last = torch.tensor([len(rows[index]) - 1 for index in part], device=ids.device)
            raw[part] = self.members.at(ids, last).cpu()
        return ((raw - self.centre.cpu()) / self.scale.cpu()).T

    def rewards(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The conservative reward of each row of token ids (prompt and answer), [n]."""
        return self.aggregate(self.row_scores(rows))

    def rate(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The conservative reward of each answer to each question."""
        values: list[float] = self.aggregate(self.scores(questions, answers)).tolist()
        return values
