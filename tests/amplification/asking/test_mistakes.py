"""Every mistake is one line, and the session goes on; with an unusable name or store it does not begin."""

from __future__ import annotations

import json
import sqlite3

import pytest

from amplification import cli
from amplification.episode import Node
from amplification.episodes import episode_from, exported
from amplification.records import node_from, node_record
from amplification.store import Store

from .conftest import Bench


def test_mistakes_are_told_in_one_line_each_and_nothing_is_lost(bench: Bench) -> None:
    (bench.folder / "binary").write_bytes(b"\x00\x01\x02")
    (bench.folder / "latin").write_bytes("Grüße".encode("latin-1"))
    (bench.folder / "empty").write_text(" \n")
    told = {
        "/open 3": "3: no tree is shown; ask something",
        "/again": "nothing has been asked yet",
        "/undo": "nothing has been corrected",
        "/frobnicate": "there is no such command",
        "/opne 1": "did you mean /open?",
        "/tmp/some/path": "there is no such command",
        f"/attach {bench.folder}/none": "there is no such file",
        f"/attach {bench.folder}": "this is no ordinary file",
        f"/attach {bench.folder}/binary": "this is a binary file",
        f"/attach {bench.folder}/latin": "this is no UTF-8 text (byte 2)",
        f"/attach {bench.folder}/empty": "the file is empty",
        "/attach": "no file is named",
        "what is $a9": "there is no such answer",
        "1 " * 1_500: "the question: it has 2999 characters",
        "sum of 3 7 2 8": "H^A0: 20",
        "/open": "give a number from 1 to 3",
        "/open 4": "there is no such node; give a number from 1 to 3",
        "/open 0": "there is no such node",
        "/open -1": "there is no such node",
        "/open a9.1": "a9: there is no such answer",
        "/open ²": "there is no such node",
        "/open 99999999999999999999": "there is no such node",
        "/reject x": "there is no such node",
        "/edit 2": "the new text is empty",
        "/edit 2 \t ": "the new text is empty",
        "/edit 9 sum of 1 2": "there is no such node",
        "/export ../out": "an export stays inside the run's folder",
        f"/export {bench.folder}/out": "an export stays inside the run's folder",
        "/export .": "an export stays inside the run's folder",
        "/export": "no file is named",
        "what is love": "no task understands this question",
        "/reject 1": "this node has no answer",
        "//open 1": "no task understands this question",
        "sum of 1 2": "H^A0: 3",
    }
    done = bench.piped("".join(f"{line}\n" for line in told))
    assert (done.returncode, done.stderr) == (0, "")
    _, *answers = done.stdout.split("\n> ")
    for (line, answer), found in zip(told.items(), answers, strict=False):
        assert answer in found, line
        assert "\n" not in found or "H^A0" in found, line
    assert len(answers) == len(told) + 1  # and the one after which the input ended
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "x" * 65, "a b", "a\x1b[2J"])
def test_a_session_name_is_no_path(name: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "--run", str(bench.run), "--session", name]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "cannot be a session's name" in told
    assert told.rstrip("\n").isprintable()


def test_a_store_of_another_format_is_left_as_it_is(bench: Bench) -> None:
    def remade(name: str) -> bytes:
        path = bench.run / name
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as database:
            database.execute("pragma journal_mode=wal")
            database.execute("create table meta (key text primary key, value text)")
            database.execute("insert into meta values ('format', '1')")
        database.close()
        return path.read_bytes()

    old = remade("store.sqlite")
    done = bench.piped("sum of 3 7\n")
    assert done.returncode == 0
    assert done.stdout.count("format 1 is older than this version reads") == 1
    assert "H^A0: 10" in done.stdout
    assert (bench.run / "store.sqlite").read_bytes() == old
    old = remade("ask.sqlite")
    for args in ((), ("sum of 3 7",)):
        done = bench.piped("", *args)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "ask.sqlite: format 1 is older" in done.stderr
    assert (bench.run / "ask.sqlite").read_bytes() == old


def test_exports_read_back_to_the_same_trees(bench: Bench) -> None:
    (bench.folder / "numbers").write_text("3 7 2 8")
    bench.wrong(sum_of_3_7="nonsense")
    typed = f"/attach {bench.folder}/numbers\nsum of $1\nsum of 1 1\nhow many of $a1 $a2 are even\n/export all.jsonl\n"
    done = bench.piped(typed, "--session", "mine")
    assert "3 episodes written to" in done.stdout
    store = Store.at(bench.run / "ask.sqlite")
    lines = (bench.run / "exports" / "all.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == list(exported([store]))
    questions = [episode_from(record).question.text for record in records]
    assert questions == ["how many of $1 $2 are even", "sum of 1 1", "sum of $1"]
    for record in records:
        tree: Node = node_from(record["tree"])
        assert node_record(tree) == record["tree"]
        episode = episode_from(record)
        assert all(pointer in episode.messages for node in tree.nodes() for pointer in node.question.pointers)
    assert episode_from(records[2]).messages[episode_from(records[2]).question.pointers[0]].text == "3 7 2 8"
    again = bench.piped("/export all.jsonl\n", "--session", "mine")
    assert "this file is already there" in again.stdout

    piped = bench.told("episodes", "--run", str(bench.run), "export")
    assert [json.loads(line) for line in piped.stdout.splitlines()] == records
    listed = bench.told("episodes", "--run", str(bench.run), "--text", "sum of", "--limit", "1")
    assert listed.stdout.count("\n") == 1 and "sum of 1 1  2" in listed.stdout
    short = listed.stdout.split()[0]
    shown = bench.told("episodes", "--run", str(bench.run), "show", short)
    assert "sum of 1 1  2  (amplified)" in shown.stdout
    node = bench.told("episodes", "--run", str(bench.run), "show", short, "--node", "2")
    assert "sent to A: sum of 1 :" in node.stdout and "came back (draw 1; 3 tokens in, 1 out): 1" in node.stdout


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("show",), "show needs the id"),
        (("list", "abcd"), "show needs the id"),
        (("show", "xyz"), "'xyz' is not an episode's id"),
        (("show", "abcd"), "there is no episode abcd"),
        (("--stop", "never"), "--stop cannot be 'never'; choose from replied"),
        (("export", "--out", "../x"), "an export stays inside the run's folder"),
    ],
)
def test_bad_requests_for_episodes(
    args: tuple[str, ...], named: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["episodes", "--run", str(bench.run), *args]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and named in told
