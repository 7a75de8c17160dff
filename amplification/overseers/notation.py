"""Workspaces and actions as text, for people and for language models.

A workspace's pointers are written `$1`, `$2` ... in the workspace's numbering everywhere. Where there are any, a dollar
sign that is one is written `$$`; where there are none, `$` is an ordinary character.

    ask QUESTION            ask A; several lines of ask and recurse are one step
    recurse QUESTION        ask a fresh copy of H^A
    look $1 500             show $1 from character 500 on (from its beginning, without a number)
    make TEXT               a new message: text, with `$1` or `$1[0:500]` for a message or a part; several are one step
    reply TEXT              answer the question
    give up REASON          end without an answer

A line that begins with white space carries on the text of the line before. The same as JSON:

    {"ask": ["QUESTION", {"recurse": "QUESTION"}]}      {"look": "$1", "from": 500}      {"make": ["TEXT"]}
    {"reply": "TEXT"}                                   {"give_up": "REASON"}
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from amplification.overseers.numbering import (
    NotationError,
    inward,
    outward,
    pieces_from,
    pieces_text,
    plain,
    pointer_of,
    shortened,
)
from amplification.question import Message, Question
from amplification.workspace import (
    Action,
    Ask,
    Event,
    Exchange,
    GiveUp,
    Look,
    Make,
    Reply,
    Seen,
    SubQuestion,
    Workspace,
)
from prompts import render

__all__ = ["NotationError", "action_schema", "parse_action", "workspace_text", "write_action"]

# The longest text that is read as an action; nothing that an overseer may do is nearly as long.
MOST_CHARS = 100_000

VERBS = ("ask", "recurse", "look", "make", "reply", "give up")

_LINE = re.compile(rf"({'|'.join(VERBS)})(?:$|\s)(.*)", re.IGNORECASE | re.DOTALL)
_LOOK = re.compile(r"(\S+)(?:\s+([0-9]{1,15}))?")

_KEYS = ("ask", "look", "make", "reply", "give_up")


def action_schema() -> str:
    """The JSON schema of actions, as text. It uses what all servers know of schemas; the parser refuses the rest."""

    def closed(**properties: object) -> dict[str, object]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    text = {"type": "string"}
    question = {"anyOf": [text, closed(recurse=text)]}
    forms = [
        closed(ask={"type": "array", "minItems": 1, "items": question}),
        closed(look=text, **{"from": {"type": "integer"}}),
        closed(make={"type": "array", "minItems": 1, "items": text}),
        closed(reply=text),
        closed(give_up=text),
    ]
    return json.dumps({"anyOf": forms})


def workspace_text(workspace: Workspace) -> str:
    """All that the overseer sees, as text. What comes from elsewhere stands behind a label, its further lines indented,
    so that it cannot pass for a line of the workspace; control characters are left out."""

    def shown(event: Event) -> dict[str, object]:
        if isinstance(event, Exchange):
            asked, answer = event.question, event.answer
            whole = workspace.number(answer.digest) if event.clipped else None
            said = outward(answer.shown(), answer.pointers, workspace)
            return {
                "kind": "exchange",
                "question": plain(outward(asked.text, asked.pointers, workspace)),
                "ok": answer.ok,
                "answer": plain(said if answer.ok else str(answer.failure)),
                "whole": whole,
            }
        if isinstance(event, Seen):
            # What was looked at has a numbering of its own, which is not this workspace's: a dollar sign is one.
            text = plain(outward(event.text, (), workspace))
            return {"kind": "seen", "number": workspace.number(event.pointer), "start": event.start, "text": text}
        return {"kind": "made", "made": ", ".join(f"${workspace.number(pointer)}" for pointer in event.pointers)}

    return render(
        "workspace",
        question=plain(outward(workspace.question.text, workspace.question.pointers, workspace)),
        pointers=[{"number": n, "size": pointer.size} for n, pointer in enumerate(workspace.pointers, start=1)],
        events=[shown(event) for event in workspace.events],
        left=workspace.left,
    )


def parse_action(text: str, workspace: Workspace, most_chars: int = MOST_CHARS) -> Action:
    """The action that a text of either notation stands for. Raises NotationError, which says what is wrong with it."""
    if len(text) > most_chars:
        raise NotationError(f"the action has {len(text)} characters; at most {most_chars} are read")
    _sane(text)
    stripped = text.strip()
    if not stripped:
        raise NotationError(f"nothing was written; begin with {_listed(VERBS)}")
    return _from_json(stripped, workspace) if stripped.startswith("{") else _from_lines(stripped, workspace)


def write_action(action: Action, workspace: Workspace, form: Literal["lines", "json"] = "lines") -> str:
    """An action in one of the notations. What is written in lines loses white space around its texts."""
    record = _record(action, workspace)
    if form == "json":
        return json.dumps(record, ensure_ascii=False)
    verb = next(iter(record))
    match record[verb]:
        case list(items):
            written = [("recurse", item["recurse"]) if isinstance(item, dict) else (verb, item) for item in items]
        case value:
            words = f"{value} {record['from']}" if record.get("from") else str(value)
            written = [(verb.replace("_", " "), words)]
    return "\n".join(f"{name} {plain(str(words).strip())}" for name, words in written)


def _from_lines(text: str, workspace: Workspace) -> Action:
    written: list[tuple[str, str]] = []
    for line in text.splitlines():
        if written and (line[:1].isspace() or not line):
            verb, words = written[-1]
            written[-1] = (verb, f"{words}\n{line[2:] if line.startswith('  ') else line[1:]}")
            continue
        match = _LINE.match(line)
        if match is None:
            raise NotationError(f"'{shortened(line)}' is no action; begin with {_listed(VERBS)}")
        written.append((match[1].lower(), match[2]))
    entries = [(verb, words.strip()) for verb, words in written]
    verbs = {verb for verb, _ in entries}
    if verbs <= {"ask", "recurse"}:
        return _asked([{"recurse": words} if verb == "recurse" else words for verb, words in entries], workspace)
    if verbs == {"make"}:
        return _made([words for _, words in entries], workspace)
    if len(entries) > 1:
        raise NotationError(
            f"one step at a time: {_listed([verb for verb, _ in entries][:3], 'and')} do not go together"
        )
    [(verb, words)] = entries
    if verb != "look":
        return _ended(verb, words, workspace)
    match = _LOOK.fullmatch(words)
    if match is None:
        raise NotationError("write the pointer and from which character on, for example: look $1 500")
    return Look(pointer_of(match[1], workspace), int(match[2] or 0))


def _from_json(text: str, workspace: Workspace) -> Action:
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise NotationError("the JSON is nested too deeply") from None
    except NotationError:
        raise
    except ValueError as error:
        raise NotationError(f"this is not JSON ({error})") from None
    keys = set(record)
    match record:
        case {"ask": list(items)} if keys == {"ask"}:
            return _asked(items, workspace)
        case {"look": str(pointer)} if keys <= {"look", "from"}:
            start = record.get("from", 0)
            if type(start) is not int or not 0 <= start < 10**15:
                raise NotationError("'from' is not the number of a character, which begin at 0")
            return Look(pointer_of(pointer, workspace), start)
        case {"make": list(items)} if keys == {"make"}:
            return _made(items, workspace)
        case {"reply": str(words)} if keys == {"reply"}:
            return _ended("reply", words, workspace)
        case {"give_up": str(words)} if keys == {"give_up"}:
            return _ended("give up", words, workspace)
    raise NotationError(f"the object is no action; its key is {_listed(_KEYS)}, with a value as the notation shows it")


def _asked(items: list[Any], workspace: Workspace) -> Ask:
    subs = []
    for item in items:
        recurse = isinstance(item, dict) and set(item) == {"recurse"}
        words, pointers = inward(_words(item["recurse"] if recurse else item, "question"), workspace)
        subs.append(SubQuestion(Question(words, pointers), recurse))
    if not subs:
        raise NotationError("there is no question to ask; give one or several")
    return Ask(tuple(subs))


def _made(items: list[Any], workspace: Workspace) -> Make:
    if not items:
        raise NotationError("there is nothing to make; give one or several texts")
    return Make(tuple(pieces_from(_words(item, "message"), workspace) for item in items))


def _ended(verb: str, words: str, workspace: Workspace) -> Action:
    if verb == "reply":
        return Reply(*inward(_words(words, "reply"), workspace))
    return GiveUp(_words(words, "reason"))


def _words(item: object, what: str) -> str:
    if not isinstance(item, str):
        raise NotationError(f"a {what} is a text, and not {shortened(json.dumps(item))}")
    if not item.strip():
        raise NotationError(f"the {what} is empty; write it out")
    return _sane(item)


def _sane(text: str) -> str:
    # Checked of what was written and of each text in it: JSON can spell out what a text may not hold.
    bad = next((c for c in text if c not in "\n\t\r" and unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad is not None:
        raise NotationError(f"the text holds the control character U+{ord(bad):04X}; leave it out")
    return text


def _record(action: Action, workspace: Workspace) -> dict[str, Any]:
    def out(message: Message | Reply) -> str:
        return outward(message.text, message.pointers, workspace)

    match action:
        case Ask(subs):
            return {"ask": [{"recurse": out(s.question)} if s.recurse else out(s.question) for s in subs]}
        case Look(pointer, start):
            return {"look": f"${workspace.number(pointer)}", "from": start}
        case Make(messages):
            return {"make": [pieces_text(pieces, workspace) for pieces in messages]}
        case Reply():
            return {"reply": out(action)}
        case GiveUp(reason):
            return {"give_up": reason}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise NotationError("the JSON gives a key twice; give each once")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise NotationError(f"{name} is not a value; leave it out")


def _listed(words: Sequence[str], joint: str = "or") -> str:
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else str(last)
