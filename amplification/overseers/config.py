"""Which overseer decides H's steps: the section `overseer` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from amplification.serving.config import ServingConfig


class Section(BaseModel):
    """Unknown keys are refused; values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServedModel(Section):
    """A language model that is no agent of the run.

    model: a folder of weights, or the name that the servers know the model by.
    serving: where it runs; by default where the agents do. `backend: openai` takes any server by URL, with
    `http.endpoint: chat` also one that only chats.
    max_tokens: of what it writes at once, and of the thoughts before it where a model has such. temperature: some
    models are drawn from at 1 and at nothing else. constrained: whether the server is told the JSON schema of what is
    to be written; some take none.
    """

    model: str
    serving: ServingConfig | None = None
    max_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    constrained: bool = True


class LanguageModelConfig(ServedModel):
    """A language model as overseer; it writes one action at a time.

    template: `overseer` explains everything to a model that was never trained for this; `step_short` explains nothing.
    """

    template: Literal["overseer", "step_short"] = "overseer"


class ImitatorConfig(Section):
    """A model that imitates `real`, which is asked where the model is not sure.

    folder: what `amplify imitate` has written. threshold: the least probability of a step that is taken; by default the
    folder's own. serving: where the model runs; by default where the agents do.
    """

    folder: Path
    threshold: float | None = Field(default=None, ge=0, le=1)
    serving: ServingConfig | None = None
    real: OverseerConfig = Field(default_factory=lambda: OverseerConfig())

    @field_validator("serving")
    @classmethod
    def _is_asked_as_it_was_trained(cls, serving: ServingConfig | None) -> ServingConfig | None:
        if serving is not None and serving.is_chat:
            raise ValueError("has the endpoint 'chat', and imitators are trained without a chat template")
        return serving


class MixtureConfig(Section):
    """`second` decides a step with probability `share`, `first` otherwise."""

    first: OverseerConfig
    second: OverseerConfig
    share: float = Field(ge=0, le=1)
    seed: int = Field(default=0, ge=0)


class OverseerConfig(Section):
    """`kind` says which overseer it is; the section of that name configures it."""

    kind: Literal["program", "language_model", "imitator", "mixture"] = "program"
    language_model: LanguageModelConfig | None = None
    imitator: ImitatorConfig | None = None
    mixture: MixtureConfig | None = None

    @model_validator(mode="after")
    def _has_its_section(self) -> OverseerConfig:
        sections = {"language_model": self.language_model, "imitator": self.imitator, "mixture": self.mixture}
        for name, section in sections.items():
            if section is None and name == self.kind:
                raise ValueError(f"of kind '{name}' needs a section '{name}'")
            if section is not None and name != self.kind:
                raise ValueError(f"of kind '{self.kind}' has a section '{name}', which says nothing of it")
        return self


ImitatorConfig.model_rebuild()
MixtureConfig.model_rebuild()

PROGRAM: OverseerConfig = OverseerConfig()
