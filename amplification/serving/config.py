"""Configuration of the serving back end."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Serving back ends by name; a new one is a file beside this and a line here. Each class is called with the
# ServingConfig alone, and is imported only when it is chosen.
SAMPLERS = MappingProxyType(
    {
        "vllm": "amplification.serving.vllm:VLLMSampler",
        "openai": "amplification.serving.openai:OpenAISampler",
        "transformers": "amplification.serving.transformers:TransformersSampler",
        "scripted": "amplification.serving.scripted:ScriptedSampler",
    }
)


class HttpConfig(BaseModel):
    """Servers that answer as OpenAI's do, for the back end `openai`. docs/how-to/serve.md says how.

    servers: base URLs such as http://127.0.0.1:8000/v1. Requests go to the one with the least under way.
    endpoint: `completions` sends prompts as they are to /v1/completions, many to a request. `chat` sends each as one
    user's message to /v1/chat/completions, where the model's chat template goes around it.
    model: the name that the servers have for the base model; None is the base's own folder or hub name.
    api_key_env: NAME of the environment variable that holds the servers' key. The key itself belongs in no file.
    dialect: `vllm` uses vLLM's extensions: exact token counts for each prompt, and none of the model's own sampling
    defaults. `openai` keeps to fields that every server knows: a request's tokens are shared out by length of text.
    own_seeds: a call at a temperature above 0 is a request of its own with a seed of its own, so that its draw depends
    on nothing else; false lets such calls travel together, far faster, and a draw cannot be repeated.
    requests_under_way: for each server. timeout: seconds for one request.
    retries: bad answers (5xx, a timeout, a body that is cut or wrong) that one request may meet and be asked again.
    deadline: seconds that a request may go on failing, whatever the reason: servers that are down or say that they are
    busy (429, 503) cost no retry.
    parameters: number of the model's parameters, for the ledger; None reads it from the model's folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: tuple[str, ...] = ("http://127.0.0.1:8000/v1",)
    endpoint: Literal["completions", "chat"] = "completions"
    model: str | None = None
    api_key_env: str | None = None
    dialect: Literal["vllm", "openai"] = "vllm"
    own_seeds: bool = True
    prompts_per_request: int = Field(default=128, ge=1, le=1024)
    requests_under_way: int = Field(default=8, ge=1)
    timeout: float = Field(default=120, gt=0)
    retries: int = Field(default=5, ge=0)
    deadline: float = Field(default=300, gt=0)
    parameters: int | None = Field(default=None, ge=1)

    @field_validator("servers")
    @classmethod
    def _are_urls(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        if not servers or len(set(servers)) < len(servers):
            raise ValueError("must name at least one server, and none twice")
        for server in servers:
            parts = urlsplit(server)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
                raise ValueError(f"'{server}' is not a base URL such as http://127.0.0.1:8000/v1")
        return servers


class ServingConfig(BaseModel):
    """Where agents run, and how much memory they may take there.

    adapters: `merge` adds an adapter to the base's weights in place whenever the model asked changes (fastest where
    many calls in a row are for one model; the prefix cache survives the change). `lora` keeps up to `max_loras`
    adapters beside the base and mixes them in one batch. `auto` is merge on a CPU, lora on a GPU. transformers merges.
    kv_cache_gib: on a GPU, None takes most of what is free.
    dtype: `auto` is the type that the weights are stored in; on a GPU with adapters beside the base, whose kernels take
    16 bits alone, bfloat16 in place of float32.
    enforce_eager: None compiles on a GPU only (on a CPU compiling costs half a minute a start).
    seed: draws at a temperature above 0 depend on it, the prompt and the call's `sample`, not on their batch.
    script: for the scripted back end, a JSON file that maps prompts to completions.
    http: for the openai back end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str = "vllm"
    adapters: Literal["auto", "merge", "lora"] = "auto"
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    max_loras: int = Field(default=2, ge=1)
    kv_cache_gib: float | None = Field(default=1, gt=0)
    block_size: int = Field(default=32, ge=1)
    max_model_len: int = Field(default=128, ge=8)
    max_num_seqs: int = Field(default=256, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    enforce_eager: bool | None = None
    seed: int = Field(default=0, ge=0)
    script: Path | None = None
    http: HttpConfig = HttpConfig()

    @property
    def is_chat(self) -> bool:
        """Whether a chat template goes around every prompt, so that a model says other things than without."""
        return self.backend == "openai" and self.http.endpoint == "chat"

    @field_validator("backend")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"'{name}' is not a serving back end; choose one of: {', '.join(SAMPLERS)}")
        return name
