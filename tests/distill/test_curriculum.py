"""What a generation is taught: only training questions, only known levels, attacks only up to their share."""

from amplification.tasks import TASKS, task_of
from amplification.tasks.base import split_of
from distill.config import LabelsConfig
from distill.curriculum import choose, practice, share_of
from distill.practice import ATTACK, Prompt, capped

SETTINGS = LabelsConfig(questions=60, replay=10)


def test_labels_are_of_training_questions_up_to_the_new_level() -> None:
    chosen = choose(TASKS, 2, SETTINGS, 0.0, [], seed=3)
    for choice in chosen:
        task = TASKS[choice.task]
        assert split_of(task, choice.question) == "train"
        assert task.level_of(choice.question) == choice.level
        assert choice.level in task.levels[:3]
    assert len({choice.question for choice in chosen}) == len(chosen)


def test_attacks_keep_to_their_share_and_make_no_sense() -> None:
    chosen = choose(TASKS, 1, SETTINGS, 0.2, ["sum of sum"], seed=3)
    attacks = [choice for choice in chosen if choice.source != "task"]
    assert 0 < len(attacks) <= 0.2 * len(chosen) + 1
    assert all(task_of(choice.question) is None for choice in attacks)
    assert [choice.source for choice in attacks].count("adversary") == 1


def test_found_attacks_take_at_most_half_of_the_attacks() -> None:
    found = [f"sum of sum {n}" for n in range(1_000)]
    chosen = choose(TASKS, 0, SETTINGS, 0.2, found, seed=3)
    sources = [choice.source for choice in chosen if choice.source != "task"]
    assert sources.count("adversary") <= len(sources) / 2


def test_generations_and_seeds_draw_different_questions() -> None:
    def texts(generation: int, seed: int) -> set[str]:
        chosen = choose(TASKS, generation, SETTINGS, 0.0, [], seed)
        return {choice.question for choice in chosen if choice.level == 4}

    assert texts(2, 1) == texts(2, 1)
    assert texts(2, 1) != texts(3, 1)
    assert texts(2, 1) != texts(2, 2)


def test_practice_has_two_thirds_on_the_new_level() -> None:
    prompts = practice(TASKS, 2, 900, 0.1, [], seed=1)
    assert abs(len(prompts) - 900) <= len(TASKS)
    assert sum(prompt.group.startswith(ATTACK) for prompt in prompts) == 90
    asked = [(prompt.group, text, task) for prompt in prompts if (task := task_of(text := prompt.question))]
    assert {group for group, text, task in asked} == {f"{name}/{level}" for name in TASKS for level in (1, 2, 4)}
    assert all(group == f"{task.name}/{task.level_of(text)}" for group, text, task in asked)
    assert abs(sum(group.endswith("/4") for group, _, _ in asked) / len(asked) - 2 / 3) < 0.05
    assert {split_of(task, text) for _, text, task in asked} == {"train"}


def test_share_of_is_a_share_of_the_whole() -> None:
    assert share_of(80, 0.2) == 20


def test_attacks_beyond_their_cap_are_left_out_and_the_last_are_kept() -> None:
    given = [Prompt(f"q{n}", f"{ATTACK}cut" if n % 2 else "summing/1") for n in range(40)]
    kept = capped(given, 0.2)
    attacked = [prompt for prompt in kept if prompt.group.startswith(ATTACK)]
    assert len(attacked) == 5 == 0.2 * len(kept)
    assert attacked == given[31::2]
    assert [prompt for prompt in kept if prompt not in attacked] == given[::2]
    assert capped(given, 0.5) == given
    assert capped(given[1::2], 0.2) == given[1::2]
    assert not any(prompt.group.startswith(ATTACK) for prompt in capped(given, 0.0))
