"""The store: readers and writers side by side, new stores opened at once, and episodes under names of their own."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from amplification.episode import Cost, Episode, Node, StopReason
from amplification.episodes import Wanted, found, listed
from amplification.errors import InputError
from amplification.messages import Excerpt, Messages
from amplification.question import Answer, Message, Question
from amplification.store import Store


def episode(question: Question, answer: str = "1", stop: StopReason = StopReason.REPLIED) -> Episode:
    return Episode(Node(question, "amplified", Answer(answer), stop), stop, Cost(calls=2), 0.5, "agent", "h")


def opened_and_written(path: str, number: int) -> int:
    store = Store.at(Path(path))
    store.add_episodes("stage", [episode(Question(f"q{number}.{i}")) for i in range(20)])
    store.close()
    return number


def test_many_processes_make_and_fill_one_store(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sqlite")
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(opened_and_written, [path] * 4, range(4)))
    assert len(list(listed([Store.at(tmp_path / "s.sqlite")]))) == 80


def _open(path: Path, together: Any) -> None:
    together.wait()
    Store.at(path).close()


def test_a_new_store_is_opened_by_several_at_the_same_moment(tmp_path: Path) -> None:
    """So often that one in ten refused would be met: SQLite waits for no other that turns a database to WAL."""
    context = get_context("fork")
    for number in range(40):
        together = context.Barrier(4)
        arguments = (tmp_path / f"{number}.sqlite", together)
        processes = [context.Process(target=_open, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    Store.at(path).add_episodes("stage", [episode(Question("before"))])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin immediate")
    writer.execute("delete from episode")
    reader = Store.at(path)  # would wait for half a minute and fail
    assert [summary.question for summary in listed([reader])] == ["before"]
    writer.execute("rollback")
    writer.close()


def test_equal_words_that_point_elsewhere_are_two_episodes(tmp_path: Path) -> None:
    store, one, two = Store.at(tmp_path / "s.sqlite"), Message("one"), Message("two")
    store.add_messages([one, two])
    for message in (one, two, two):
        store.add_episodes("stage", [episode(Question("read $1", (message.digest,)), message.text)])
    summaries = list(listed([store]))
    assert [summary.answer for summary in summaries] == ["two", "one"]
    summary, kept = found([store], summaries[1].id[:8])
    assert (summary.answer, kept.messages[one.digest].text) == ("one", "one")


def test_episodes_are_found_by_scope_stop_and_text(tmp_path: Path) -> None:
    run, own = Store.at(tmp_path / "run.sqlite"), Store.at(tmp_path / "own.sqlite")
    run.add_episodes("generation-1/labels", [episode(Question("100% sure"))])
    run.add_episodes("generation-10/labels", [episode(Question("a_b"), stop=StopReason.OUT_OF_STEPS)])
    own.add_episodes("ask/s1/1", [episode(Question("new"), "other")])

    def questions(wanted: Wanted, limit: int | None = None) -> list[str]:
        return [summary.question for summary in listed([run, own], wanted, limit)]

    assert questions(Wanted()) == ["new", "a_b", "100% sure"]
    assert questions(Wanted(), 2) == ["new", "a_b"]
    assert questions(Wanted(scope="generation-1")) == ["100% sure"]
    assert questions(Wanted(scope="ask/s1/1")) == ["new"]
    assert questions(Wanted(stop=StopReason.OUT_OF_STEPS)) == ["a_b"]
    assert questions(Wanted(text="0%")) == ["100% sure"]
    assert questions(Wanted(text="_")) == ["a_b"]
    assert questions(Wanted(text="other")) == ["new"]


def test_messages_that_are_cut_out_of_others_come_back(tmp_path: Path) -> None:
    store, whole = Store.at(tmp_path / "s.sqlite"), Message("a long text")
    part = Excerpt(whole, 2, 6)
    outer = Message("see $1", (part.digest,))
    store.add_messages([outer, part])
    kept = store.messages([outer.digest])
    assert {message.text for message in kept.values()} == {"see $1", "long"}
    assert Messages(kept.values()).expanded(outer, 100) == "see long"
    with pytest.raises(InputError, match="is not in this store"):
        store.messages(["0" * 32])
    assert store.messages(["0" * 32], gaps=True) == {}


def test_a_name_of_an_episode_is_hex_and_tells_it_from_others(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "s.sqlite")
    store.add_episodes("stage", [episode(Question("q"))])
    [summary] = listed([store])
    assert found([store], summary.id)[0] == found([store], summary.id[:4])[0] == summary
    for name, problem in (("", "not an episode's id"), ("%", "not an episode's id"), ("0" * 32, "no episode")):
        with pytest.raises(InputError, match=problem):
            found([store], name)
