"""Sessions in real terminals: typed into, interrupted, killed and carried on with."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable

from .conftest import PATIENCE_S, Bench, Typist

Start = Callable[..., Typist]


def test_a_session_is_typed_into_killed_and_carried_on_with(bench: Bench, typist: Start) -> None:
    numbers = bench.folder / "numbers.txt"
    numbers.write_text("3 7\n2 8\n")
    one = typist("--session", "mine")
    one.see("> ")
    one.type(f"/attach {numbers}\n")
    one.see("$1 is numbers.txt, 8 characters")
    one.type("sum of $1\n")
    one.see("a1, H^A0: 20")
    one.type("/reject 4\n")
    one.see("rejected: ")
    bench.close_gate("sum of 5 5")
    one.type("sum of 1 1 5 5\n")
    bench.wait_for_gate()
    one.kill()
    bench.open_gate()
    before = bench.asked()

    two = typist("--session", "mine")
    two.see("2 questions so far")
    two.see("a2 was not finished: sum of 1 1 5 5; /again carries on")
    two.type("/list\n")
    two.see("$1  numbers.txt, 8 characters")
    two.see("a1  sum of $1  20")
    two.see("reject  ")
    two.type("/again\n")
    two.see("a3, H^A0: 12")
    two.type("sum of $1\n")
    two.see("a4, H^A0: ")
    two.see("> ")
    two.type("\x04")
    two.see("carry on with")
    assert two.end() == 0
    assert bench.asked()[: len(before)] == before
    assert len(set(bench.asked())) == len(bench.asked())  # nothing that was answered was asked twice


def test_ctrl_c_while_answering_keeps_what_is_known_and_the_session(bench: Bench, typist: Start) -> None:
    bench.wrong(sum_of_1_2_3_4="nonsense")  # so that H asks a copy of itself, in a second step
    bench.close_gate("sum of 3 4 :")
    session = typist()
    session.see("session s1")
    session.type("sum of 1 2 3 4 5 6 7 8\n")
    bench.wait_for_gate()
    session.type("\x03")
    bench.open_gate()
    session.see("a1 was stopped")
    session.type("/tree\n")
    session.see("sum of 5 6 7 8")
    before = bench.asked()
    session.type("/again\n")
    session.see("a2, H^A0: 36")
    # Not by Ctrl-C: in the instant in which the prompt is drawn, the terminal's line editing may swallow it.
    session.type("/quit\n")
    session.see("carry on with: amplify ask")
    assert session.end() == 0
    after = bench.asked()
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)


def test_ctrl_c_at_a_single_question_ends_with_130(bench: Bench, typist: Start) -> None:
    bench.close_gate("sum of 3 7")
    process = typist("sum of 3 7 2 8")
    bench.wait_for_gate()
    process.type("\x03")
    bench.open_gate()
    process.see("amplify: interrupted")
    assert process.end() == 130


def test_two_processes_share_a_session_that_neither_found(bench: Bench) -> None:
    typed = ["".join(f"sum of {a} {b}\n" for b in range(10)) for a in (1, 2)]
    processes = [
        subprocess.Popen(
            bench.ask("--session", "both"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=bench.environment,
        )
        for _ in typed
    ]
    for process, lines in zip(processes, typed, strict=True):
        assert process.stdin is not None
        process.stdin.write(lines)
        process.stdin.close()
        process.stdin = None
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
    with sqlite3.connect(bench.run / "ask.sqlite") as database:
        turns = database.execute("select number, typed, episode from turn order by number").fetchall()
    assert [number for number, _, _ in turns] == list(range(1, 21))
    assert sorted(typed for _, typed, _ in turns) == sorted("".join(typed).splitlines())
    assert len({episode for _, _, episode in turns}) == 20


def test_a_person_is_h_and_is_never_asked_the_same_twice(bench: Bench, typist: Start) -> None:
    one = typist("--overseer", "human", "--session", "me")
    one.see("> ")
    one.type("sum of 3 7 2 8\n")
    one.see("question: sum of 3 7 2 8")
    one.see("H> ")
    one.type("think about it\n")
    one.see("'think about it' is no action")
    one.see("H> ")
    one.type("ask sum of 3 7\n")
    one.see("... ")
    one.type("recurse\n")
    one.see("the question is empty")
    one.see("... ")
    one.type("recurse sum of 2 8\n\n")
    one.see("question: sum of 2 8")
    one.see("H> ")
    one.type("\x03")
    one.see("a1 was stopped")
    one.kill()

    two = typist("--overseer", "human", "--session", "me")
    two.see("/again carries on")
    two.type("/again\n")
    assert "question: sum of 3 7 2 8" not in two.see("question: sum of 2 8")  # decided before the kill
    two.see("H> ")
    two.type("reply 10\n")
    two.see("answer: 10")
    two.see("H> ")
    two.type("reply twenty\n")
    two.see("a2, H^A0: twenty")
    two.type("/again\n")
    assert "H> " not in two.see("a3, H^A0: twenty")
    two.type("/forget 1\n")
    two.see("2 decisions forgotten")
    two.type("/again\n")
    two.see("H> ")
    two.type("\x04")
    two.see("a4 was stopped")
    two.type("/quit\n")
    assert two.end() == 0


def test_a_terminal_gets_no_commands_from_a_model(bench: Bench, typist: Start) -> None:
    bench.wrong(sum_of_3_7="\x1b]0;owned\x07\x1b[2J\u202e[red]10")
    session = typist()
    session.see("> ")
    session.type("sum of 3 7 2 8\n")
    session.see("a1, H^A0: ")
    for command in ("/open 2", "/open 1", "/tree", "/list", "/direct sum of 3 7"):
        session.type(f"{command}\n")
    session.see("[red]10")
    session.type("/quit\n")
    session.end()
    # The library that draws and the one that reads lines write sequences of their own.
    assert "\x1b]0" not in session.seen and "\x1b[2J" not in session.seen
    assert "\u202e" not in session.seen
    piped = bench.piped("sum of 3 7 2 8\n/open 2\n/open 1\n/list\n")
    assert all(char.isprintable() or char == "\n" for char in piped.stdout)
    assert "[red]10" in piped.stdout
