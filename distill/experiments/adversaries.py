"""Kinds of adversary against one agent with the same budget of calls: what does each find, alone and together?

Two agents are attacked: one that never saw an attack, and one hardened by rounds with the training families. The corpus
is a file of training-family attacks; the writer is a small model that learned to write them. Nothing held out is used.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from amplification.tasks.attacks import attacks, families
from distill.adversaries import Parts, open_search
from distill.config import AdversaryConfig, WarmStartConfig, WriterConfig
from distill.experiments import base
from distill.experiments.hardening import Arm, HardeningConfig, Lab
from distill.imitation import warm_start
from distill.progress import Progress, silent
from distill.search import SearchResult
from distill.weights import load_merged, load_tokenizer, quiet
from distill.writer import kinds_shown
from distill.writer_lessons import writer_lessons

# Added to a seed: the corpus and the writer's lessons are other attacks than those that the agent is hardened by.
CORPUS = 2_000
LESSONS = 3_000


class Config(HardeningConfig):
    """corpus: attacks in the file. lessons: attacks that the writer learns from, as `writing` says."""

    corpus: int = Field(default=600, ge=1)
    lessons: int = Field(default=3_000, ge=1)
    writing: WarmStartConfig = WarmStartConfig(steps=900)


def run(config: Config, seed: int, folder: Path, progress: Progress) -> dict[str, base.Arm]:
    """An arm for each kind and for all of them together."""
    lab = Lab(config, seed, folder, kinds_shown())
    try:
        lab.begin(lab.ordinary(), silent)
        hardened = lab.harden("hardened", Arm(config.distill.adversary.share, families(False), search=False), silent)
        search = config.distill.adversary.model_copy(
            update={"corpus": corpus_file(lab, config, seed), "writer": writer(lab, config, seed)}
        )
        arms = {kind: (kind,) for kind in ("mutation", "corpus", "writer")} | {"all": ("mutation", "corpus", "writer")}
        results = {}
        for place, (name, kinds) in enumerate(arms.items()):
            settings = search.model_copy(update={"kinds": kinds})
            results[name] = base.Arm(
                {
                    **figures("before", attack(lab, settings, None, seed)),
                    **figures("hardened", attack(lab, settings, hardened.agent, seed)),
                }
            )
            progress(place + 1, len(arms))
    finally:
        lab.close()
    return results


def attack(lab: Lab, settings: AdversaryConfig, adapter: Path | None, seed: int) -> SearchResult:
    parts = Parts(
        lab.tasks, lab.config.level, lab.models.config.serving, lambda serving: lab.models.dispatcher("attack")
    )
    return open_search(settings, parts).search(lab.target(adapter), seed)


def figures(agent: str, result: SearchResult) -> dict[str, float]:
    """tried: the agent's calls. failures: confirmed by H^A, per 100 judgements. cells: of the archive. tokens: those of
    a writer, for each failure."""
    written = result.used.get("writer", {}).get("writer_tokens", 0)
    confirmed = sum(result.failures_per_round)
    return {
        f"{agent}: tried": float(result.calls),
        f"{agent}: failures per 100 judged": 100 * confirmed / max(1, result.judged),
        f"{agent}: cells": float(len({found.cell for found in result.found})),
        f"{agent}: writer's tokens per failure": written / max(1, confirmed),
    }


def corpus_file(lab: Lab, config: Config, seed: int) -> Path:
    """A file of attacks of the training families."""
    path = lab.folder / "corpus.txt"
    made = attacks(lab.tasks, config.corpus, held_out=False, seed=seed + CORPUS, up_to=config.level)
    path.write_text("".join(f"{each.text}\n" for each in made), encoding="utf-8")
    return path


def writer(lab: Lab, config: Config, seed: int) -> WriterConfig:
    """A model that learned to write attacks of the training families, from the same beginnings as the agent."""
    form, learned, model = lab.folder / "form", lab.folder / "writing", lab.folder / "writer"
    rows = writer_lessons(lab.tasks, config.lessons, config.level, seed + LESSONS)
    warm_start(form, None, rows, config.distill.adapter, config.writing, learned, seed, silent)
    with quiet():
        load_merged(form, learned).save_pretrained(str(model))
        load_tokenizer(form).save_pretrained(str(model))
    return WriterConfig(model=str(model), template="attack_short", max_tokens=48)
