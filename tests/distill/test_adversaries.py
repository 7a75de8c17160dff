"""Adversaries of several kinds: what they share in a search, in a run and in an experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amplification.cli import main
from amplification.errors import StageError
from amplification.serving.config import ServingConfig
from amplification.tasks import TASKS
from distill.adversaries import Parts, open_search
from distill.adversary import Target, hunt
from distill.archive import read_found
from distill.config import (
    AdversaryConfig,
    BaseConfig,
    DistillConfig,
    LabelsConfig,
    ModelConfig,
    PPOSettings,
    RewardConfig,
    WarmStartConfig,
)
from distill.corpus import CorpusAdversary
from distill.experiments import adversaries
from distill.search import Search
from tests.distill.attacking import (
    CONFIGS,
    GULLIBLE,
    UP_TO,
    corpus,
    nonsense,
    numbered,
    writer,
)
from tests.distill.training import LINEAR, silent


def test_adversaries_share_one_budget_and_each_find_says_whose_it_is(tmp_path: Path) -> None:
    file = corpus(tmp_path / "corpus.txt", nonsense(10))
    settings = AdversaryConfig(rounds=2, candidates=60, kinds=("mutation", "corpus", "writer"), corpus=file)
    written = writer(numbered)
    parts = Parts(TASKS, UP_TO, ServingConfig(), lambda serving: written.dispatcher)
    mutation = open_search(settings.model_copy(update={"kinds": ("mutation",)}), parts).adversaries[0]
    search = Search((CorpusAdversary(file, TASKS, UP_TO), written, mutation), settings)
    metrics = hunt(search, GULLIBLE, tmp_path, 60, 0.5, 1)
    sources = metrics["by_source"]
    assert metrics["calls"] == sum(source["tried"] for source in sources.values()) == 120
    assert sources["corpus"]["tried"] == sources["corpus"]["questions"] == 10  # what it leaves goes to the others
    assert sources["writer"]["tried"] > 40
    assert sources["mutation"]["tried"] > 40
    for key in ("judged", "dropped"):
        assert metrics[key] == sum(source[key] for source in sources.values())
    assert metrics["failures_found"] == sum(source["confirmed"] for source in sources.values()) == metrics["judged"]
    assert [sources[name]["calls_to_first_failure"] for name in sources] == pytest.approx([1, 1, 1], abs=8)
    rows = read_found(tmp_path / "found.parquet")
    assert {row.source for row in rows} == {"corpus", "writer", "mutation"}
    assert all(row.family.split(":")[0] == row.source for row in rows if row.source != "mutation")
    assert metrics["written"] == len(rows) == sum(source["kept"] for source in sources.values())


def test_a_find_counts_only_if_h_a_says_so(tmp_path: Path) -> None:
    """The corpus calls it an attack, the agent answers it: without H^A's word it is nothing."""
    adversary = CorpusAdversary(corpus(tmp_path / "corpus.txt", nonsense(20)), TASKS, UP_TO)
    settings = AdversaryConfig(rounds=1, candidates=20)
    blind = Target(lambda texts: ["3"] * len(texts), lambda texts: [None] * len(texts))
    agreeing = Target(lambda texts: ["3"] * len(texts), lambda texts: ["3"] * len(texts))
    assert [Search((adversary,), settings).search(target, 1).found for target in (blind, agreeing)] == [[], []]


def test_a_crowded_source_does_not_use_up_the_judgements(tmp_path: Path) -> None:
    """One family in the corpus beside many of mutation's: half of what is judged is the corpus's all the same."""
    file = corpus(tmp_path / "corpus.txt", nonsense(100))
    settings = AdversaryConfig(rounds=1, candidates=200, kinds=("corpus", "mutation"), corpus=file)
    search = open_search(settings, Parts(TASKS, UP_TO, ServingConfig(), lambda serving: writer(numbered).dispatcher))
    sources = search.search(GULLIBLE, 1).sources
    assert list(sources) == ["corpus", "mutation"]
    assert sources["corpus"].tried == 100
    assert sources["corpus"].judged > 40


def test_a_search_that_can_try_nothing_fails(tmp_path: Path) -> None:
    settings = AdversaryConfig(rounds=1, candidates=20)
    with pytest.raises(StageError, match=r"no question that may be tried.*'unparsable': 3"):
        hunt(Search((writer(lambda call: "Sure! Here are some:"),), settings), GULLIBLE, tmp_path, 10, 0.2, 1)


def test_a_run_with_all_kinds(tmp_path: Path, tiny_model: Path) -> None:
    """From the command line to a stage's metrics: the writer is a model without any sense, whose texts have none."""
    file = corpus(tmp_path / "corpus.txt", nonsense(4))
    text = (
        (CONFIGS / "debug.yaml")
        .read_text()
        .replace(
            "adversary: {",
            f"adversary: {{kinds: [corpus, mutation, writer], corpus: {file}, "
            f"writer: {{model: {tiny_model}, template: attack_short, max_tokens: 6}}, ",
        )
    )
    (tmp_path / "all.yaml").write_text(text)
    ends = ["--out", str(tmp_path / "run"), "--until", "generation-0/adversary"]
    assert main(["run", str(tmp_path / "all.yaml"), *ends]) == 0
    done = json.loads((tmp_path / "run" / "generation-0" / "adversary" / "done.json").read_text())["metrics"]
    assert set(done["by_source"]) == {"corpus", "mutation", "writer"}
    assert done["by_source"]["corpus"]["tried"] == 4
    told = done["by_source"]["writer"]
    assert told["writer_calls"] == 6
    assert told["writer_tokens"] > 6 * 4
    assert told["unparsable"] + told["written"] == 6


def test_a_run_does_not_begin_without_its_corpus(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / "debug.yaml")
    options = ["--distill.adversary.kinds", "corpus", "--distill.adversary.corpus", "no/such.txt"]
    assert main(["run", config, "--out", str(tmp_path / "run"), *options]) == 2
    assert "no/such.txt: there is no such file" in capfd.readouterr().err
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*/done.json"))


def test_a_tiny_run_of_the_experiment_gives_every_kind_the_same_budget(tmp_path: Path) -> None:
    few = WarmStartConfig(steps=10, batch=8)
    config = adversaries.Config(
        experiment="adversaries",
        tasks=("summing",),
        rounds=1,
        model=ModelConfig(width=32, heads=1, layers=1),
        base=BaseConfig(steps=5, batch=8),
        beginning=few,
        questions=20,
        corpus=12,
        lessons=40,
        writing=few,
        distill=DistillConfig(
            adapter=LINEAR,
            labels=LabelsConfig(questions=20, replay=10),
            warm_start=few,
            reward=RewardConfig(members=1, steps=2, batch=8, extra_layers=0),
            adversary=AdversaryConfig(rounds=2, candidates=20, share=0.3),
            ppo=PPOSettings(episodes=16, batch=16, critic_warmup=0),
        ),
    )
    arms = adversaries.run(config, 1, tmp_path, silent)
    assert list(arms) == ["mutation", "corpus", "writer", "all"]
    tried = {name: arm.figures["hardened: tried"] for name, arm in arms.items()}
    assert (tried["mutation"], tried["corpus"], tried["all"]) == (40, 12, 40)
    assert tried["writer"] <= 40
