"""Agent (A_n): fast, one model call a question. An immutable pair (base model, adapter) with a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from amplification.errors import InputError
from amplification.question import Answer, digest
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import base_folder
from prompts import render

RESAMPLE_TEMPERATURE = 1.0


def weights_digest(folder: str | Path) -> str:
    """Digest of a model or adapter folder's safetensors and config. Raises InputError if there are none."""
    path = Path(folder)
    files = sorted([*path.glob("*.safetensors"), *path.glob("*config.json")])
    if not any(f.suffix == ".safetensors" for f in files):
        raise InputError(path, "no safetensors weights in this folder", "give a folder that a run has written")
    h = hashlib.blake2b(digest_size=16)
    for file in files:
        h.update(file.name.encode())
        h.update(file.read_bytes())
    return h.hexdigest()


@dataclass(frozen=True)
class Agent:
    """Which model answers, how it is asked, and how its completion becomes an Answer."""

    name: str
    model: ModelRef
    digest: str
    params: SamplingParams = field(default_factory=SamplingParams)
    template: str = "direct"

    @classmethod
    def load(cls, name: str, model: ModelRef, params: SamplingParams | None = None) -> Agent:
        """An agent from folders on disk; its digest is over the weights themselves, not over their place."""
        parts = [weights_digest(base_folder(model.base))] + ([weights_digest(model.adapter)] if model.adapter else [])
        return cls(name, model, digest(*parts), params or SamplingParams())

    def call(self, text: str, sample: int = 0) -> Call:
        """The call that asks a question of this text, its pointers already replaced by what they stand for.

        Sample 0 is drawn as `params` say. Where that is greedily, further samples are draws at `RESAMPLE_TEMPERATURE`,
        since a second greedy one would say the same again.
        """
        params = self.params
        if sample and params.temperature == 0:
            params = replace(params, temperature=RESAMPLE_TEMPERATURE)
        return Call(self.model, render(self.template, question=text), params, sample)

    def answer_from(self, completion: Completion) -> Answer:
        """An unfinished or empty completion is a failure, not a shorter answer."""
        if completion.error is not None:
            return Answer.failed(completion.error)
        if not completion.finished:
            return Answer.failed("the agent's answer was cut off")
        text = completion.text.strip()
        return Answer(text) if text else Answer.failed("the agent returned nothing")
