"""ActorCritic: the policy with a value head on what it computes anyway, as one module."""

from __future__ import annotations

from typing import Any

import torch

from distill.rollout import kept_columns


class ValueHead(torch.nn.Module):
    """Values from the policy's last hidden states, at first 0 everywhere.

    No gradient goes from here into the policy: an episode is a few tokens, so a baseline is all that is wanted, and a
    critic with layers of its own would double the cost of training (docs/log.md has the two side by side).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = torch.nn.Linear(width, 1, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [...]."""
        values: torch.Tensor = self.score(hidden.detach().float()).squeeze(-1)
        return values


class ActorCritic(torch.nn.Module):
    """Wrapped and synchronised by accelerate as one module. Takes the place of TRL's `PolicyAndValueWrapper`."""

    def __init__(self, policy: Any, value_model: ValueHead) -> None:
        super().__init__()
        self.policy, self.value_model = policy, value_model
        self.is_gradient_checkpointing = getattr(policy, "is_gradient_checkpointing", False)
        # What is sharded as one piece where weights are (accelerate asks the whole module for it).
        self._no_split_modules = getattr(policy, "_no_split_modules", None)

    def forward(self, ids: torch.Tensor, states: torch.Tensor, **extra: Any) -> tuple[torch.Tensor, ...]:
        """Logits [S, vocabulary], in single precision, and values [S] at `states` [S], places in ids.flatten().

        `extra` is what else the model wants to know: what sees what (`distill.tree`), or keys and values to go on from,
        which come third with `use_cache`. All of PPO goes through here: where weights are sharded, they are gathered
        when this module is called.
        """
        columns, where = kept_columns(states, ids.shape[1])
        extra.setdefault("use_cache", False)
        out = self.policy(input_ids=ids, logits_to_keep=columns, output_hidden_states=True, **extra)
        found = out.logits.flatten(0, 1)[where].float(), self.value_model(out.hidden_states[-1].flatten(0, 1)[states])
        return (*found, out.past_key_values) if extra["use_cache"] else found
