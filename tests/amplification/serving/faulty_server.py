"""A server of completions and chat on loopback that misbehaves as scripted, and counts what it was asked and answered.

`python -m tests.amplification.serving.faulty_server` serves one well-behaved server until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What one request meets instead of a good reply.

    status, headers, body: the response; cut: announce the whole body, send half of it and hang up; hang: never answer;
    drop: hang up without a word; change: rewrite a good reply.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    hang: bool = False
    drop: bool = False
    change: Callable[[Body], object] | None = None


def answer_to(prompt: str, seed: int | None = None) -> str:
    """What a good reply says: a digit that depends on the prompt (and the seed) alone."""
    return str((sum(prompt.encode()) + (seed or 0)) % 10)


def prompts_of(path: str, asked: Body) -> list[str]:
    """The prompts of a request, one a completion that it asks for."""
    if path.endswith("/chat/completions"):
        [message] = asked["messages"]
        return [message["content"]] * asked.get("n", 1)
    return [asked["prompt"]] if isinstance(asked["prompt"], str) else asked["prompt"]


def good_reply(path: str, asked: Body) -> Body:
    """A reply as vLLM gives it; a token is a word."""
    return good_chat(asked) if path.endswith("/chat/completions") else good_completions(asked)


def good_completions(asked: Body) -> Body:
    prompts = prompts_of("/completions", asked)
    choices = []
    for index, prompt in enumerate(prompts):
        choice: Body = {"index": index, "text": f" {answer_to(prompt, asked.get('seed'))}", "finish_reason": "stop"}
        if asked.get("return_token_ids"):
            choice |= {"prompt_token_ids": list(range(len(prompt.split()))), "token_ids": [7, 2]}
        if asked.get("logprobs") is not None:
            choice["logprobs"] = {"token_logprobs": [-0.25, -0.5]}
        choices.append(choice)
    tokens = sum(len(prompt.split()) for prompt in prompts)
    return {"choices": choices, "usage": {"prompt_tokens": tokens, "completion_tokens": 2 * len(prompts)}}


def good_chat(asked: Body) -> Body:
    """Samples of one prompt differ as if each had a seed of its own, counted on from the request's."""
    [message] = asked["messages"]
    prompt, number = message["content"], asked.get("n", 1)
    choices = []
    for index in range(number):
        said = {"role": "assistant", "content": f" {answer_to(prompt, asked.get('seed', 0) + index)}", "refusal": None}
        choice: Body = {"index": index, "message": said, "finish_reason": "stop", "logprobs": None}
        if asked.get("return_token_ids"):
            choice |= {"token_ids": [7, 2]}
        if asked.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "x", "logprob": -0.25}, {"token": "", "logprob": -0.5}]}
        choices.append(choice)
    tokens = len(prompt.split())
    reply: Body = {"choices": choices, "usage": {"prompt_tokens": tokens, "completion_tokens": 2 * number}}
    return reply | ({"prompt_token_ids": list(range(tokens))} if asked.get("return_token_ids") else {})


class FaultyServer:
    """Serves from a thread of its own. Requests meet `script`'s faults in turn, then good replies (or `always`)."""

    def __init__(self, script: Iterable[Fault] = (), always: Fault | None = None) -> None:
        self.script, self.always = deque(script), always
        self.asked: list[Body] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()
        self.aborted = threading.Event()
        self.refuse: Callable[[str, Body], Fault | None] = lambda path, asked: None
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Hang up on everyone and listen no more."""
        if not self._loop.is_running():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        asked = json.loads(await reader.readexactly(int(headers["content-length"])))
        path = head[0].split()[1]
        self.paths.append(path)
        self.headers.append(headers)
        self.asked.append(asked)
        fault = self.refuse(path, asked) or (self.script.popleft() if self.script else self.always) or Fault()
        if fault.hang:
            await reader.read()  # until the client hangs up
            self.aborted.set()
            return False
        if fault.drop:
            return False
        body = fault.body or self._reply(path, asked, fault)
        lines = [f"HTTP/1.1 {fault.status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in fault.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body[: len(body) // 2] if fault.cut else body))
        await writer.drain()
        return not fault.cut

    def _reply(self, path: str, asked: Body, fault: Fault) -> bytes:
        if fault.status != 200:
            return b'{"error": {"message": "on purpose"}}'
        if not path.endswith("/completions"):
            return b"Success"
        reply = good_reply(path, asked)
        if fault.change:
            fault.change(reply)
        elif not fault.cut:
            self.answered.update(prompts_of(path, asked))
        return json.dumps(reply).encode()


def main() -> None:
    """One good server, its base URL on the first line of the output, until it is killed or its input ends."""
    with FaultyServer() as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
