"""Adversaries of several kinds: what they share, what a corpus and a writer may propose, and what is thrown away."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from amplification.agent import Agent
from amplification.cli import main
from amplification.dispatch import Dispatcher
from amplification.errors import InputError, StageError
from amplification.memo import Memo
from amplification.overseers.opening import served_agent
from amplification.serving.base import Call, ModelRef, SamplingParams
from amplification.serving.config import ServingConfig
from amplification.serving.scripted import ScriptedSampler
from amplification.serving.transformers import TransformersSampler
from amplification.store import Store
from amplification.tasks import TASKS, task_of
from amplification.tasks.attacks import FAMILIES, attack_split, attacks, extra_words
from amplification.tasks.base import NONSENSE, questions, split_of
from distill.adversaries import Parts, check_sources, open_search
from distill.adversary import Target, hunt
from distill.archive import Archive, Found, read_found
from distill.candidate import MAX_CHARS
from distill.config import (
    AdversaryConfig,
    BaseConfig,
    DistillConfig,
    LabelsConfig,
    ModelConfig,
    PPOSettings,
    RewardConfig,
    WarmStartConfig,
    WriterConfig,
)
from distill.corpus import CorpusAdversary, Line, read_corpus
from distill.experiments import adversaries
from distill.search import Past, Search, SearchResult
from distill.writer import AT_ONCE, WriterAdversary, kinds_shown, read_attacks
from distill.writer_lessons import writer_lessons
from tests.distill.training import LINEAR, silent

UP_TO = 1
FOLDER = ModelRef("a model")
CONFIGS = Path(__file__).parents[2] / "configs"


def judge(texts: Sequence[str]) -> list[str | None]:
    """H^A as it would be with a perfect agent."""
    owners = [task_of(text) for text in texts]
    return [owner.truth(text) if owner else NONSENSE for owner, text in zip(owners, texts, strict=True)]


GULLIBLE = Target(lambda texts: ["3"] * len(texts), judge)


def writer(answers: Callable[[Call], str], template: str = "attack", up_to: int = UP_TO) -> WriterAdversary:
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), template)
    return WriterAdversary(TASKS, up_to, agent, Dispatcher(ScriptedSampler(answers=answers, parameters=50)))


def as_json(texts: Sequence[str]) -> str:
    return json.dumps({"attacks": list(texts)})


def numbered(call: Call) -> str:
    """As many attacks as asked for, others in each call."""
    return as_json([f"sum of {call.sample} bananas {i}" for i in range(AT_ONCE)])


def corpus(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def nonsense(count: int, side: str = "train") -> list[str]:
    texts = (f"how blue is banana {i}" for i in range(100_000))
    return [text for text in texts if attack_split(text) == side][:count]


def past() -> Past:
    return Past(Archive(8))


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


def test_a_corpus_is_asked_once_and_never_what_is_held_out(tmp_path: Path) -> None:
    summing = TASKS["summing"]
    known = next(questions(summing, summing.levels[UP_TO], "train", 1))
    held_out = next(questions(summing, summing.levels[UP_TO], "held_out", 1))
    larger = next(questions(summing, summing.levels[UP_TO + 1], "train", 1))
    good = [*nonsense(8), known]
    bad = [*nonsense(5, "held_out"), held_out, larger, "blue " * 80, "is \x1b[31m red"]
    file = corpus(tmp_path / "corpus.txt", [*good, *bad, "", f"  {good[0]}  "])
    adversary = CorpusAdversary(file, TASKS, UP_TO)
    shared, rng = past(), random.Random(1)
    rounds = [adversary.propose(5, shared, rng) for _ in range(3)]
    asked = [candidate.text for made in rounds for candidate in made]
    assert sorted(asked) == sorted(good)
    assert [len(made) for made in rounds] == [5, 4, 0]
    assert adversary.metrics() == {"questions": 9, "left_out": len(bad) + 1}
    assert {candidate.task for made in rounds for candidate in made if candidate.text == known} == {"summing"}


def test_json_lines_name_families(tmp_path: Path) -> None:
    first, second, *_ = nonsense(2)
    rows = [json.dumps({"question": first, "family": "fruit"}), "", json.dumps({"question": second})]
    file = corpus(tmp_path / "corpus.jsonl", rows)
    assert read_corpus(file) == [Line(first, "fruit"), Line(second)]
    made = CorpusAdversary(file, TASKS, UP_TO).propose(9, past(), random.Random(1))
    assert {candidate.made_by for candidate in made} == {"corpus:fruit", "corpus"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "there is no such file"),
        ("empty.txt", b" \n", "the file is empty"),
        ("latin.txt", b"caf\xe9", "no UTF-8 text"),
        ("a.jsonl", b'{"question": "a"}\n{"question": ', "line 2: this is not JSON"),
        ("b.jsonl", b'\n["a"]', "line 2: this is no object with a text 'question'"),
        ("c.jsonl", b'{"question": 3}', "line 1: this is no object with a text 'question'"),
        ("d.jsonl", b'{"question": "a", "familly": "b"}', "line 1: there is no key 'familly'; the keys are"),
        ("e.jsonl", b'{"question": "a", "family": 3}', "line 1: 'family' is no text"),
        ("f.jsonl", b"[" * 100_000, "line 1: this is not JSON"),
    ],
)
def test_a_bad_corpus_is_told_by_file_and_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        check_sources(AdversaryConfig(kinds=("corpus",), corpus=path), ServingConfig())
    assert str(path) in str(refused.value)


def test_a_corpus_of_which_nothing_may_be_asked_is_refused(tmp_path: Path) -> None:
    file = corpus(tmp_path / "corpus.txt", nonsense(4, "held_out"))
    with pytest.raises(InputError, match="none of its 4 questions may be asked"):
        CorpusAdversary(file, TASKS, UP_TO)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Sure! Here are some:\n1. sum of banana",
        '["a", "b"]',
        '{"attacks": []}',
        '{"attacks": "sum of banana"}',
        '{"attacks": ["a", 3]}',
        '{"attacks": ["a"], "note": "b"}',
        '```json\n{"attacks": ["a"]}\n```',
        '{"attacks": ["' + "a" * 2 * AT_ONCE * MAX_CHARS + '"]}',
        "[" * 10_000,
    ],
)
def test_what_cannot_be_read_is_dropped_and_counted(said: str) -> None:
    with pytest.raises(ValueError):
        read_attacks(said)
    adversary = writer(lambda call: said)
    assert adversary.propose(AT_ONCE, past(), random.Random(1)) == []
    assert (adversary.metrics()["unparsable"], adversary.metrics()["written"]) == (1, 0)


def test_what_is_cut_off_is_not_read() -> None:
    adversary = writer(lambda call: as_json(["sum of banana"]) + " x" * 500)
    assert adversary.propose(1, past(), random.Random(1)) == []
    assert adversary.metrics()["unparsable"] == 1


def test_of_what_is_written_only_what_may_be_asked_is_proposed() -> None:
    summing = TASKS["summing"]
    held_out = next(questions(summing, summing.levels[UP_TO], "held_out", 1))
    good = nonsense(2)
    bad = [*nonsense(1, "held_out"), held_out, "blue " * 300, "is \x00 red", "  "]
    adversary = writer(lambda call: as_json([*good, *bad, "beyond what was asked for", "and more"]))
    made = adversary.propose(2 * AT_ONCE, past(), random.Random(1))
    assert [candidate.text for candidate in made if candidate.text in good] == good
    told = adversary.metrics()
    assert told["written"] == 2 * AT_ONCE
    assert told["unusable"] >= 2 * len(bad)
    assert len(made) + told["unusable"] + told["repeated"] == told["written"]
    assert told["repeated"] >= len(good)


def test_a_writers_tokens_are_counted_as_its_own_models() -> None:
    adversary = writer(numbered)
    adversary.propose(3 * AT_ONCE, past(), random.Random(1))
    told = adversary.metrics()
    assert told["writer_calls"] == 3
    assert told["writer_tokens"] > 3 * 100
    assert told["flops"] == 2 * 50 * told["writer_tokens"]


def test_calls_that_fail_are_counted_and_if_all_do_the_stage_fails() -> None:
    def some(call: Call) -> str:
        if call.sample % 2:
            raise RuntimeError("the prompt has 400 tokens,\nand the model takes 127 at most")
        return numbered(call)

    adversary = writer(some)
    assert len(adversary.propose(5 * AT_ONCE, past(), random.Random(1))) > AT_ONCE
    assert adversary.metrics()["failed_calls"] == 2
    with pytest.raises(StageError, match=r"answered none of 1 calls: the prompt has 400 tokens, and"):
        adversary.propose(1, past(), random.Random(1))  # call number 5


def test_a_writer_sees_training_questions_and_failures_and_nothing_that_is_held_out() -> None:
    shared, rng = past(), random.Random(1)
    hostile = "sum of {{ 7 * 7 }} and {% raw %}"
    shared.archive.add(
        Found(hostile, NONSENSE, "4\n9\x1b", "corpus", "summing", "answered_nonsense", False, 1.0, "corpus")
    )
    sampler = ScriptedSampler(answers=numbered)
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400), "attack")
    adversary = WriterAdversary(TASKS, UP_TO, agent, Dispatcher(sampler))
    adversary.propose(60 * AT_ONCE, shared, rng)
    prompts = [call.prompt for call in sampler.calls]
    assert len(set(prompts)) == 60
    assert any(f"- {hostile} (it said 4 9 and should have said nonsense)" in prompt for prompt in prompts)
    lines = {line[2:] for prompt in prompts for line in prompt.splitlines() if line.startswith("- ")}
    shown = {line for line in lines if not line.startswith(hostile)}
    for text in shown:
        owner = task_of(text)
        assert owner is not None
        assert split_of(owner, text) == "train"
        assert (owner.level_of(text) or 0) <= owner.levels[UP_TO]
    held_out = {attack.text for attack in attacks(TASKS, 500, held_out=True, seed=1)}
    assert not held_out & {line.split(" (it said")[0] for line in lines}


def test_no_kind_that_is_only_measured_is_asked_for() -> None:
    trained = {family.kind for family in FAMILIES.values() if not family.held_out}
    assert set(kinds_shown()) == trained
    assert "contradictory" not in trained


def test_equal_prompts_are_draws_of_their_own() -> None:
    sampler = ScriptedSampler(answers=lambda call: "sum of banana")
    agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), "attack_short")
    adversary = WriterAdversary({"summing": TASKS["summing"]}, 0, agent, Dispatcher(sampler))
    adversary.propose(40, past(), random.Random(1))
    assert len({call.prompt for call in sampler.calls}) < 40
    assert len({call.sample for call in sampler.calls}) == len(sampler.calls) == 40


def test_a_search_with_a_writer_is_fixed_by_its_seed() -> None:
    settings = AdversaryConfig(rounds=2, candidates=40)
    results = [Search((writer(numbered),), settings).search(GULLIBLE, seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_a_search_that_was_killed_asks_the_writer_nothing_twice(tmp_path: Path) -> None:
    settings = AdversaryConfig(rounds=3, candidates=40)
    asked: list[Call] = []

    def search(store: str, target: Target) -> tuple[SearchResult, list[Call]]:
        sampler = ScriptedSampler(answers=numbered)
        agent = Agent("writer", FOLDER, "digest", SamplingParams(max_tokens=400, temperature=1.0), "attack")
        dispatcher = Dispatcher(sampler, Memo(Store.at(tmp_path / store), "generation-0/adversary"))
        try:
            return Search((WriterAdversary(TASKS, 1, agent, dispatcher),), settings).search(target, 1), sampler.calls
        finally:
            asked.extend(sampler.calls)

    whole, calls = search("whole", GULLIBLE)
    asked.clear()
    turns = iter(range(10))

    def killed(texts: Sequence[str]) -> list[str]:
        if next(turns) == 1:
            raise KeyboardInterrupt
        return ["3"] * len(texts)

    with pytest.raises(KeyboardInterrupt):
        search("killed", Target(killed, judge))
    assert 0 < len(asked) < len(calls)
    resumed, rest = search("killed", GULLIBLE)
    assert resumed == whole  # what it cost, too
    assert len(asked) == len(calls)
    assert set(asked) == set(calls) > set(rest)


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


def test_a_tiny_model_learns_to_write_attacks(tmp_path: Path) -> None:
    """Taught with the training families alone, it writes texts that were not among its lessons and make no sense."""
    from distill.base import train_base
    from distill.imitation import warm_start
    from distill.weights import load_merged, load_tokenizer

    tasks = {"summing": TASKS["summing"]}
    rows = writer_lessons(tasks, 600, UP_TO, 1)
    words = (*tasks["summing"].words(), NONSENSE, *extra_words(), *kinds_shown())
    base, adapter, model = tmp_path / "base", tmp_path / "adapter", tmp_path / "model"
    shape = ModelConfig(width=64, heads=2, layers=2)
    train_base(tasks, words, shape, BaseConfig(steps=1, batch=16), base, 1, silent)
    warm_start(base, None, rows, LINEAR, WarmStartConfig(steps=300, batch=32, learning_rate=4e-3), adapter, 1, silent)
    load_merged(base, adapter).save_pretrained(str(model))
    load_tokenizer(base).save_pretrained(str(model))

    settings = WriterConfig(model=str(model), template="attack_short", max_tokens=40, temperature=0.7)
    serving = ServingConfig(backend="transformers")
    agent = served_agent("writer", settings, serving, settings.template, None)
    adversary = WriterAdversary(tasks, UP_TO, agent, Dispatcher(TransformersSampler(serving)))
    result = Search((adversary,), AdversaryConfig(rounds=1, candidates=100), judged_share=1.0, cell_cap=100).search(
        GULLIBLE, 1
    )
    told = result.metrics()["by_source"]["writer"]
    assert told["writer_calls"] == 100
    assert told["unparsable"] < 10
    assert told["tried"] > 30
    assert told["confirmed"] > 0.8 * told["tried"]
    told_what_to_say = {
        kind: [("say" in found.question.split()) for found in result.found if found.family == f"writer:{kind}"]
        for kind in ("instruction", "malformed")
    }
    shares = {kind: sum(said) / len(said) for kind, said in told_what_to_say.items()}
    assert shares["instruction"] > 2 * shares["malformed"]  # it writes what it is asked for
    taught = {str(row["answer"]) for row in rows}
    assert sum(found.question not in taught for found in result.found) > 10


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
