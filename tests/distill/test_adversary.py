"""The adversary against scripted agents: it finds a planted weakness, and nothing where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amplification.tasks import TASKS, task_of
from amplification.tasks.attacks import attack_split, attacks, families
from amplification.tasks.base import NONSENSE, split_of
from distill.adversary import MutationAdversary, SearchResult, Target, calls_to_failure, hunt
from distill.archive import Archive, Found, capped, in_turn, read_found
from distill.config import AdversaryConfig
from tests.distill.attacking import judge

UP_TO = 1
SETTINGS = AdversaryConfig(rounds=3, candidates=80)


def agent(fails: Callable[[str], bool]) -> Callable[[Sequence[str]], list[str]]:
    """Answers as H^A does, except where `fails` says so: there it says 3, whatever it is asked."""
    return lambda texts: ["3" if fails(text) else str(view) for text, view in zip(texts, judge(texts), strict=True)]


def search(target: Target, seed: int = 1, **options: float) -> SearchResult:
    cap = int(options.pop("cell_cap", 8))
    share = options.pop("judged_share", 1.0)
    return MutationAdversary(TASKS, SETTINGS, UP_TO, judged_share=share, cell_cap=cap).search(target, seed)


def test_a_planted_weakness_is_found_and_named() -> None:
    result = search(Target(agent(lambda text: "say" in text.split()), judge))
    assert result.found
    assert all("say" in found.question.split() for found in result.found)
    assert {(found.agent_answer, found.answer, found.kind) for found in result.found} == {
        ("3", NONSENSE, "answered_nonsense")
    }
    assert result.calls == SETTINGS.rounds * SETTINGS.candidates
    assert result.judged == result.calls
    first = result.attacker_calls_to_first_failure
    assert first is not None
    assert 1 <= first <= SETTINGS.candidates * (1 + [n > 0 for n in result.failures_per_round].index(True))


@pytest.mark.parametrize(("word", "times"), [("banana", 5.0), ("is", 1.3)])
def test_what_was_found_makes_later_rounds_find_more(word: str, times: float) -> None:
    """A rare weakness turns up more often once a find is a parent; one of a single task, once that task is favoured."""
    adversary = MutationAdversary(TASKS, AdversaryConfig(rounds=3, candidates=150), UP_TO, judged_share=1.0)
    target = Target(agent(lambda text: word in text.split() and task_of(text) is None), judge)
    rounds = [adversary.search(target, seed).failures_per_round for seed in range(4)]
    assert sum(last for *_, last in rounds) > times * sum(first for first, *_ in rounds)


def test_nothing_is_reported_of_a_perfect_agent() -> None:
    result = search(Target(agent(lambda text: False), judge))
    assert result.found == []
    assert result.attacker_calls_to_first_failure is None
    assert result.metrics()["failures_found"] == 0
    assert result.failures_per_round == [0, 0, 0]


def test_a_refusal_and_a_wrong_answer_are_failures_of_their_own_kind() -> None:
    refusing = search(Target(lambda texts: [NONSENSE] * len(texts), judge))
    assert {found.kind for found in refusing.found} == {"refused"}
    wrong = search(Target(agent(lambda text: task_of(text) is not None), judge))
    assert {found.kind for found in wrong.found} == {"wrong"}
    assert all(found.task == getattr(task_of(found.question), "name", None) for found in wrong.found)


def test_what_h_a_has_no_view_on_is_dropped() -> None:
    result = search(Target(agent(lambda text: True), lambda texts: [None] * len(texts)))
    assert result.found == []
    assert result.dropped == result.judged > 0
    assert result.attacker_calls_to_first_failure is None


def test_a_search_is_fixed_by_its_seed() -> None:
    target = Target(agent(lambda text: "say" in text.split()), judge)
    assert search(target, 3) == search(target, 3)
    assert search(target, 3) != search(target, 4)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_only_training_questions_of_trained_levels_are_ever_asked(seed: int) -> None:
    asked: list[str] = []

    def answer(texts: Sequence[str]) -> list[str]:
        asked.extend(texts)
        return ["3"] * len(texts)

    search(Target(answer, judge), seed)
    assert len(asked) == len(set(asked)) > 0
    for text in asked:
        owner = task_of(text)
        if owner is None:
            assert attack_split(text) == "train"
        else:
            assert split_of(owner, text) == "train"
            assert (owner.level_of(text) or 0) <= owner.levels[UP_TO]
    assert not set(asked) & {attack.text for attack in attacks(TASKS, 1_000, True, seed)}


def test_what_made_a_find_is_an_edit_or_a_training_family() -> None:
    result = search(Target(lambda texts: ["3"] * len(texts), judge))
    training = {family.name for family in families(held_out=False)}
    assert all(found.family in training or found.family.startswith("mutation:") for found in result.found)
    assert len({found.family for found in result.found}) > 10


def test_no_cell_of_the_archive_outgrows_its_cap() -> None:
    result = search(Target(lambda texts: ["3"] * len(texts), judge), cell_cap=2)
    cells = Counter(found.cell for found in result.found)
    assert max(cells.values()) == 2
    assert len(cells) > 20


def test_a_full_cell_keeps_the_most_promising() -> None:
    archive = Archive(cap=2)
    for promise in (0.1, 0.9, 0.5):
        archive.add(Found(f"q{promise}", NONSENSE, "3", "f", "t", "answered_nonsense", False, promise))
    assert [found.promise for found in archive.all()] == [0.9, 0.5]


def test_the_highly_rewarded_are_judged_first() -> None:
    """With few judgements, answers that the reward model likes use them up, save for the random part."""
    judged: list[str] = []

    def counting_judge(texts: Sequence[str]) -> list[str | None]:
        judged.extend(texts)
        return judge(texts)

    target = Target(
        answer=lambda texts: ["3"] * len(texts),
        judge=counting_judge,
        score=lambda texts, answers: [1.0 if "of" in text.split() else 0.1 for text in texts],
    )
    result = search(target, judged_share=0.25)
    assert result.judged == 3 * SETTINGS.candidates // 4
    assert sum("of" in text.split() for text in judged) > 0.5 * len(judged)


def test_a_fooled_reward_model_is_recorded() -> None:
    def score(texts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [
            float(answer == "3") if "say" in text.split() else 0.0 for text, answer in zip(texts, answers, strict=True)
        ]

    def honest(texts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [float(answer == view) for answer, view in zip(answers, judge(texts), strict=True)]

    weak = agent(lambda text: "say" in text.split())
    fooled = search(Target(weak, judge, score))
    assert fooled.found
    assert all(found.fooled for found in fooled.found)
    assert not any(found.fooled for found in search(Target(weak, judge, honest)).found)


@pytest.mark.parametrize(("others", "share", "most"), [(80, 0.2, 20), (79, 0.2, 19), (10, 0.5, 10), (100, 0.0, 0)])
def test_attacks_never_exceed_their_share(others: int, share: float, most: int) -> None:
    found = [Found(f"q{i}", NONSENSE, "3", f"f{i % 7}", "t", "answered_nonsense", False, 0.0) for i in range(200)]
    kept = capped(found, others, share)
    assert len(kept) == most
    assert len(kept) <= share * (len(kept) + others) + 1e-9
    assert len({each.family for each in kept}) == min(7, most)


def test_cells_take_turns() -> None:
    assert in_turn({"a": [1, 2, 3], "b": [4], "c": [5, 6]}) == [1, 4, 5, 2, 6, 3]
    assert in_turn({}) == []


def test_what_is_found_is_written_within_its_share(tmp_path: Path) -> None:
    adversary = MutationAdversary(TASKS, SETTINGS, UP_TO)
    told: list[tuple[int, int]] = []
    target = Target(agent(lambda text: "say" in text.split()), judge)
    metrics = hunt(adversary, target, tmp_path, 20, 0.2, 1, lambda done, total: told.append((done, total)))
    rows = read_found(tmp_path / "found.parquet")
    assert metrics["written"] == len(rows) == 5
    assert all("say" in row.question.split() and row.answer == NONSENSE for row in rows)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_found_is_a_file_without_rows(tmp_path: Path) -> None:
    hunt(MutationAdversary(TASKS, SETTINGS, UP_TO), Target(agent(lambda text: False), judge), tmp_path, 20, 0.2, 1)
    assert read_found(tmp_path / "found.parquet") == []


def test_calls_to_failure_counts_answers_to_nonsense_within_a_cap() -> None:
    def nonsense(text: str) -> bool:
        return task_of(text) is None

    few = calls_to_failure(TASKS, Target(agent(nonsense), judge), UP_TO, 200, 1)
    many = calls_to_failure(TASKS, Target(agent(lambda text: "say" in text.split()), judge), UP_TO, 200, 1)
    assert few is not None
    assert many is not None
    assert 1 <= few < many <= 200
    assert calls_to_failure(TASKS, Target(agent(lambda text: not nonsense(text)), judge), UP_TO, 200, 1) is None
    asked: list[int] = []

    def counted(texts: Sequence[str]) -> list[str]:
        asked.append(len(texts))
        return [str(view) for view in judge(texts)]

    assert calls_to_failure(TASKS, Target(counted, judge), UP_TO, 120, 1, batch=50, attackers=1) is None
    assert sum(asked) == 120
