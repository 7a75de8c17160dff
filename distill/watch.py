"""Watch: H^A looks at PPO every few updates, has the reward model refreshed, or ends a training that games it.

Sources: Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization" (arXiv 2210.10760, 2022) for what is
watched: the reward goes on rising while what it stands for falls. Coste et al., "Reward model ensembles help mitigate
overoptimization" (arXiv 2310.02743, 2023) for the members' spread as a sign of it.

A look is a function of the update. What it finds is a file, and so are the members of a refresh and the agents that H^A
liked best; a training that was killed and carries on reads them and asks nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from distill.config import PPOSettings
from distill.drawn import likeliest, texts_of
from distill.ensemble import RewardEnsemble
from distill.experience import Experience
from distill.keep import better
from distill.monitor import Action
from distill.refresh import Refresh, Watched, refreshed
from distill.rollout import Rollout
from distill.stage import write_atomically
from distill.weights import prompt_ids

# What metrics say of a look.
SHOWN = ("update", "reward", "rate", "uncertainty", "disagreement")
# The spread of members' scores, by the token ids of a prompt and its answer.
Spread = Mapping[tuple[tuple[int, ...], tuple[int, ...]], float]


class Parts(NamedTuple):
    """What is watched. `questions`: those that PPO practises on."""

    base: str | Path
    policy: Any
    ensemble: RewardEnsemble
    reward_folder: str | Path
    tokenizer: PreTrainedTokenizerBase
    questions: Sequence[str]
    settings: PPOSettings
    seed: int


@dataclass(frozen=True)
class Look:
    """What was seen before the update of this number. `acceptable`: H^A's view of each held-out answer.

    reward: the mean of the batch. uncertainty: the mean spread of the members' scores there. disagreement: the share of
    held-out answers to which the reward model gives the sign that H^A does not. `episodes` and `cost`: of H^A.
    `tokens`: through the policy and the members. `unreadable`: judgements that could not be read.
    """

    update: int
    reward: float
    uncertainty: float
    acceptable: list[bool | None]
    disagreement: float
    tokens: int
    episodes: int
    cost: dict[str, int]
    unreadable: int = 0

    @property
    def rate(self) -> float:
        """Share of the held-out answers that H^A finds acceptable, of those that it has a view on."""
        views = [view for view in self.acceptable if view is not None]
        return sum(views) / max(len(views), 1)


class Watch:
    """PPO's monitor, and its rewards: `score` takes the place of the ensemble's."""

    def __init__(self, parts: Parts, watched: Watched, folder: Path) -> None:
        """`folder` keeps what was found; with PPO's state it is what a killed training carries on from."""
        self.parts, self.watched, self.folder = parts, watched, folder
        self.settings, self.refresh = parts.settings.watch, watched.settings.refresh
        self.looks: list[Look] = []
        self.refreshes: list[Refresh] = []
        self.stopped: Look | None = None  # the look whose agent was gone back to
        self._spread: Spread = {}
        ids = prompt_ids(parts.tokenizer, parts.questions)
        self._texts = {tuple(row): text for row, text in zip(ids, parts.questions, strict=True)}
        folder.mkdir(parents=True, exist_ok=True)

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """The conservative reward of each answer to its prompt, all token ids, [n]."""
        scores = self.parts.ensemble.answer_scores(prompts, answers)
        spread = scores.std(dim=0, unbiased=False).tolist()
        self._spread = dict(zip(zip(map(tuple, prompts), map(tuple, answers), strict=True), spread, strict=True))
        return self.parts.ensemble.aggregate(scores)

    def begin(self, update: int) -> None:
        """Read what earlier looks found; the newest reward model of theirs is taken over."""
        earlier = sorted(u for u in map(_update_of, self.folder.glob("look-*.json")) if u < update)
        self.looks = [self._read(u) for u in earlier]
        self.refreshes = [each for u in earlier if (each := Refresh.read(self._ensemble(u))) is not None]
        if self.refreshes:
            self._take_over()

    def __call__(self, experience: Experience, update: int) -> Action | None:
        """Look, if it is time, and do what follows."""
        if update % self.settings.every:
            return None
        spread = self._spread
        look = self._read(update) if self._file(update).exists() else self._look(experience, update)
        self.looks.append(look)
        if self._best() is look:
            self._keep(update)
        gamed = self._gamed()
        if (gamed or self._doubtful(look)) and len(self.refreshes) < self.refresh.most:
            self._refresh(experience.rollout, spread, update)
            return Action.RESCORE
        if gamed:
            self._go_back()
            return Action.STOP
        return None

    def _look(self, experience: Experience, update: int) -> Look:
        judge, ensemble = self.watched.judge, self.parts.ensemble
        episodes, cost, unreadable = judge.judged, asdict(judge.cost), judge.unreadable
        rollout = likeliest(self.parts.policy, self.parts.tokenizer, judge.questions, self.parts.settings.answer_tokens)
        answers = texts_of(self.parts.tokenizer, rollout)
        acceptable = judge.acceptable(answers)
        rewards = ensemble.rate(judge.questions, answers)
        seen = [(reward > 0) != view for reward, view in zip(rewards, acceptable, strict=True) if view is not None]
        look = Look(
            update,
            float(experience.scores[experience.rollout.own].mean()),
            sum(self._spread.values()) / max(len(self._spread), 1),
            acceptable,
            sum(seen) / max(len(seen), 1),
            rollout.tokens() * (1 + len(ensemble.centre)),
            judge.judged - episodes,
            {name: value - cost[name] for name, value in asdict(judge.cost).items()},
            judge.unreadable - unreadable,
        )
        write_atomically(self._file(update), json.dumps(asdict(look)))
        return look

    def _best(self, since: int = -1) -> Look:
        """The look after that update at which H^A liked most answers; of equals the last, where PPO came furthest."""
        return max((look for look in self.looks if look.update > since), key=lambda look: (look.rate, look.update))

    def _gamed(self) -> bool:
        """Whether the reward has been above that of the best look, and H^A's view clearly worse, `patience` looks long.

        Rewards compare within one reward model, so looks up to the last refresh count for nothing.
        """
        patience, since = self.settings.patience, self.refreshes[-1].update if self.refreshes else -1
        last = [look for look in self.looks if look.update > since][-patience:]
        if not patience or len(last) < patience:
            return False
        best = self._best(since)
        return all(
            look.update > best.update and look.reward > best.reward and better(_views(look), _views(best))
            for look in last
        )

    def _doubtful(self, look: Look) -> bool:
        return look.uncertainty > self.refresh.uncertainty or look.disagreement > self.refresh.disagreement

    def _refresh(self, rollout: Rollout, spread: Spread, update: int) -> None:
        """New labels on the policy's answers of this update, and members that were trained on with them."""
        done = Refresh.read(self._ensemble(update))
        if done is None:
            asked = self._own_answers(rollout, spread)
            earlier = [Path(self.parts.reward_folder), *(self._ensemble(each.update) for each in self.refreshes)]
            out, seed = self._ensemble(update), self.parts.seed
            again = rollout.tokens()
            done = refreshed(self.parts.base, self.watched, asked, earlier, update, out, seed, again)
        self.refreshes.append(done)
        self._take_over()

    def _own_answers(self, rollout: Rollout, spread: Spread) -> list[tuple[str, str]]:
        """Questions of this update with the policy's answers: half where the members differ most, half as they come.

        What all members are wrong about shows no spread, so it has to be met by chance.
        """
        held_out, most = set(self.watched.judge.questions), self.refresh.questions
        answers = texts_of(self.parts.tokenizer, rollout)
        own = rollout.own.nonzero().flatten().tolist()
        distinct = rollout.distinct
        rows = [(tuple(rollout.prompts[o]), tuple(t)) for o, t in zip(distinct.owners, distinct.texts, strict=True)]
        spreads = [spread.get(rows[place], 0.0) for place in distinct.which.tolist()]
        unsure = sorted(own, key=lambda place: (-spreads[place], place))[: most // 2]
        found: dict[str, str] = {}
        for place in dict.fromkeys([*unsure, *own]):
            question = self._texts[tuple(rollout.prompts[place // rollout.each])]
            if question not in held_out and answers[place]:
                found.setdefault(question, answers[place])
        return list(found.items())[:most]

    def _take_over(self) -> None:
        folder = self._ensemble(self.refreshes[-1].update)
        newest = RewardEnsemble.load(self.parts.base, folder, self.watched.settings)
        self.parts.ensemble.become(newest)

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.parts.policy.named_parameters() if p.requires_grad}

    def _keep(self, update: int) -> None:
        """Write the policy's weights, whole or not at all."""
        file = self.folder / f"agent-{update}.safetensors"
        if not file.exists():
            partial = file.with_suffix(".partial")
            save_file({name: p.detach().cpu().contiguous() for name, p in self._trained().items()}, partial)
            partial.replace(file)

    def _go_back(self) -> None:
        """Put the weights back that H^A liked best."""
        self.stopped = self._best()
        kept = load_file(self.folder / f"agent-{self.stopped.update}.safetensors")
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(kept[name])

    def _file(self, update: int) -> Path:
        return self.folder / f"look-{update}.json"

    def _ensemble(self, update: int) -> Path:
        return self.folder / f"ensemble-{update}"

    def _read(self, update: int) -> Look:
        return Look(**json.loads(self._file(update).read_text(encoding="utf-8")))

    def metrics(self) -> dict[str, Any]:
        """JSON-ready. `judge_cost` and `judged`: of H^A. `watch_tokens`: through a model, in forward passes' worth.

        What came to nothing: `undecided` answers at looks, `left_out` questions of refreshes by why, and `unreadable`
        judgements at both.
        """
        judge = self.watched.judge
        asked: list[Look | Refresh] = [*self.looks, *self.refreshes]
        first, left_out = judge.first_cost, Counter[str]()
        for each in self.refreshes:
            left_out.update(each.left_out)
        return {
            "looks": [{name: getattr(look, name) for name in SHOWN} for look in self.looks],
            "refreshes": [each.update for each in self.refreshes],
            "hacking_stopped": self.stopped is not None,
            "best_look": self._best().update if self.looks else None,
            "judge_cost": {name: first[name] + sum(each.cost[name] for each in asked) for name in first},
            "judged": judge.first_judged + sum(each.episodes for each in asked),
            "undecided": sum(look.acceptable.count(None) for look in self.looks),
            "left_out": dict(left_out),
            "unreadable": sum(each.unreadable for each in asked),
            "watch_tokens": sum(each.tokens for each in asked),
        }


def _views(look: Look) -> list[bool]:
    return [bool(view) for view in look.acceptable]


def _update_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
