"""Records: trees, actions and messages as JSON-ready data, and back. Keys are spelt out: people read the export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amplification.episode import Node, Step, StopReason
from amplification.messages import Content, Cut, Excerpt, Piece
from amplification.question import Answer, Message, Question
from amplification.workspace import Action, Ask, GiveUp, Left, Look, Make, Reply, SubQuestion

Record = dict[str, Any]


def node_record(node: Node) -> Record:
    """A tree. What is empty is left out, so that a leaf takes little room."""
    record: Record = {"question": node.question.text, "by": node.by, "answer": node.answer.text}
    optional = {
        "pointers": list(node.question.pointers),
        "answer_pointers": list(node.answer.pointers),
        "failure": node.answer.failure,
        "stop": node.stop.value if node.stop else None,
        "asked": _message(node.asked) if node.asked else None,
        "samples": [{"answer": sample.text, "failure": sample.failure} for sample in node.samples],
    }
    record |= {key: value for key, value in optional.items() if value}
    # A leaf has no steps; a copy of H^A that was ended before its first one has none yet.
    return record if node.steps is None else record | {"steps": [_step_record(step) for step in node.steps]}


def node_from(record: Mapping[str, Any]) -> Node:
    """The tree that `node_record` was given. Raises KeyError, TypeError or ValueError for anything else."""
    asked = record.get("asked")
    return Node(
        Question(record["question"], tuple(record.get("pointers", ()))),
        record["by"],
        Answer(record["answer"], tuple(record.get("answer_pointers", ())), record.get("failure")),
        StopReason(record["stop"]) if record.get("stop") else None,
        [_step_from(step) for step in record["steps"]] if "steps" in record else None,
        tuple(Answer(sample["answer"], (), sample["failure"]) for sample in record.get("samples", ())),
        Question(asked["text"], tuple(asked["pointers"])) if asked else None,
    )


def action_record(action: Action) -> Record:
    """An action as an object whose first key says what it is."""
    match action:
        case Ask(subs):
            return {"ask": [_message(sub.question) | {"recurse": sub.recurse} for sub in subs]}
        case Look(pointer, start):
            return {"look": pointer, "start": start}
        case Make(messages):
            return {"make": [[_piece_record(piece) for piece in pieces] for pieces in messages]}
        case Reply(text, pointers):
            return {"reply": text, "pointers": list(pointers)}
        case GiveUp(reason):
            return {"give_up": reason}


def action_from(record: Mapping[str, Any]) -> Action:
    """The action that `action_record` was given. Raises KeyError, TypeError or ValueError for anything else."""
    if "ask" in record:
        return Ask(tuple(SubQuestion(Question(s["text"], tuple(s["pointers"])), s["recurse"]) for s in record["ask"]))
    if "look" in record:
        return Look(record["look"], record["start"])
    if "make" in record:
        return Make(tuple(tuple(map(_piece_from, pieces)) for pieces in record["make"]))
    if "reply" in record:
        return Reply(record["reply"], tuple(record["pointers"]))
    return GiveUp(record["give_up"])


def message_record(content: Content) -> Record:
    """A message; of an excerpt only where it was cut out."""
    if isinstance(content, Excerpt):
        return {"source": content.source.digest, "start": content.start, "stop": content.stop}
    record = _message(content) | {"kind": content.kind}
    return record | {"failure": content.failure} if isinstance(content, Answer) else record


def message_from(record: Mapping[str, Any], sources: Mapping[str, Content]) -> Content:
    """The message that `message_record` was given; `sources` holds what excerpts were cut from.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    if "source" in record:
        source = sources[record["source"]]
        if isinstance(source, Excerpt):
            raise ValueError("an excerpt of an excerpt")
        return Excerpt(source, record["start"], record["stop"])
    text, pointers = record["text"], tuple(record["pointers"])
    if record["kind"] == Answer.kind:
        return Answer(text, pointers, record["failure"])
    return {Message.kind: Message, Question.kind: Question}[record["kind"]](text, pointers)


def _message(message: Message) -> Record:
    return {"text": message.text, "pointers": list(message.pointers)}


def _step_record(step: Step) -> Record:
    # An Ask's questions stand in its children; they are written out only where none was asked.
    done = {"children": list(map(node_record, step.children))} if step.children else action_record(step.action)
    return {"by": step.by, "left": list(step.left), **done}


def _step_from(record: Mapping[str, Any]) -> Step:
    left = Left(*record["left"])
    if "children" not in record:
        return Step(action_from(record), record["by"], left)
    children = tuple(map(node_from, record["children"]))
    subs = tuple(SubQuestion(child.asked or child.question, child.by == "amplified") for child in children)
    return Step(Ask(subs), record["by"], left, children)


def _piece_record(piece: Piece) -> Record:
    if isinstance(piece, str):
        return {"text": piece}
    return {"pointer": piece.pointer, "start": piece.start, "stop": piece.stop}


def _piece_from(record: Mapping[str, Any]) -> Piece:
    return record["text"] if "text" in record else Cut(record["pointer"], record["start"], record["stop"])
