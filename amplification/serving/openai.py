"""OpenAISampler: models on servers that speak OpenAI's API over HTTP, completions or chat."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from time import monotonic

import httpx

from amplification.agent import weights_digest
from amplification.errors import InputError, ServingError
from amplification.serving.base import Call, Completion, ModelRef, SamplingParams
from amplification.serving.checkpoint import Shelf
from amplification.serving.config import ServingConfig
from amplification.serving.draws import draw_seed
from amplification.serving.openai_chat import chat_body, chat_choice, refused_field
from amplification.serving.openai_protocol import BadReply, Request, read_reply, text_choice, words_of
from amplification.serving.openai_servers import Failed, Server, Servers

Piece = list[tuple[int, Completion]]


class _PromptRefused(Exception):
    """The server takes none of a request because of one prompt in it."""


class OpenAISampler:
    """One server or many. Calls that are ready together travel together, `prompts_per_request` to a request; to a chat
    endpoint only samples of one prompt do.

    A try that fails (see HttpConfig) is made again on whichever server is up; all completions of a request are taken
    from one reply.
    """

    def __init__(self, settings: ServingConfig) -> None:
        """Raises InputError if the settings name a variable for the key and it is not set."""
        self.settings, self.http = settings, settings.http
        self._key = _key(self.http.api_key_env)
        self._chat, self._vllm = self.http.endpoint == "chat", self.http.dialect == "vllm"
        self._refused: set[str] = set()  # fields that the model does not take, by its own word
        self._shelf = Shelf()
        self._names: dict[ModelRef, str] = {}
        self._bases: dict[str, str] = {}
        self._opened: dict[asyncio.AbstractEventLoop, tuple[Servers, AsyncIterator[None]]] = {}

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        """One completion a call, in order; also inside a running event loop, which it then holds up.

        Raises as `stream` does.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._all(calls))
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self._all(calls))).result()

    async def stream(self, calls: Sequence[Call]) -> AsyncIterator[Piece]:
        """(place in `calls`, completion) as replies come in; a prompt that is empty or that the server finds too long
        gives a completion with an `error`.

        Raises InputError for an adapter's folder that holds no weights, before anything is asked, and for an endpoint
        that a server does not have for the model; ServingError if a server refuses a request, or if none gives an
        answer within the retries and the deadline.
        """
        faults = [(i, _fault(call.prompt)) for i, call in enumerate(calls)]
        refused = [(i, _refusal(fault)) for i, fault in faults if fault]
        waiting = deque(self._requests(calls, [i for i, fault in faults if not fault]))
        if refused:
            yield refused
        if not waiting:
            return
        servers = await self._open()
        arrived: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        workers = [
            asyncio.create_task(self._work(servers, waiting, arrived))
            for _ in range(min(len(waiting), servers.capacity))
        ]
        try:
            left = len(calls) - len(refused)
            while left:
                piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= len(piece)
                yield piece
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def parameters(self, model: ModelRef) -> int:
        """Number of the model's parameters: as configured, else from its folder. Raises InputError if neither tells."""
        if self.http.parameters is not None:
            return self.http.parameters
        try:
            return self._shelf.parameters(model)
        except InputError as error:
            problem = f"is not set, and {error.where} does not tell the model's size ({error.problem})"
            raise InputError("serving.http.parameters", problem, "set it to the number of parameters") from error

    def close(self) -> None:
        """Forget the servers. Connections end with their event loop; the next call opens others."""
        self._opened.clear()

    async def _all(self, calls: Sequence[Call]) -> list[Completion]:
        done: dict[int, Completion] = {}
        async for piece in self.stream(calls):
            done.update(piece)
        return [done[i] for i in range(len(calls))]

    async def _open(self) -> Servers:
        """The servers with connections of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._opened:
            servers = Servers(self.http, self._key)
            # A loop closes its unfinished asynchronous generators before it ends. A sampler outlives loops, and this is
            # the one moment at which it can close its connections in the loop that they belong to.
            lifetime = self._until_the_end(loop, servers)
            self._opened[loop] = servers, lifetime
            await anext(lifetime)
        return self._opened[loop][0]

    async def _until_the_end(self, loop: asyncio.AbstractEventLoop, servers: Servers) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._opened.pop(loop, None)
            await servers.close()

    def _requests(self, calls: Sequence[Call], asked: Sequence[int]) -> list[Request]:
        """The calls at `asked` in requests of nearly equal size, each with one model, the same parameters and seed."""
        groups: dict[tuple[ModelRef, SamplingParams, int | None, str], list[int]] = {}
        for i in asked:
            prompt = calls[i].prompt if self._chat else ""
            groups.setdefault((calls[i].model, calls[i].params, self._seed(calls[i]), prompt), []).append(i)
        requests = []
        for (model, shared, seed, _), places in groups.items():
            # Samples of one request are told apart by its seed and their place; greedy ones vLLM refuses to give.
            alone = self._chat and (shared.temperature == 0 or seed is not None)
            number = len(places) if alone else -(-len(places) // self.http.prompts_per_request)
            bounds = [len(places) * part // number for part in range(number + 1)]
            for start, end in pairwise(bounds):
                part = tuple(places[start:end])
                adapter = str(Path(model.adapter).resolve()) if model.adapter else None
                prompts = tuple(calls[i].prompt for i in part)
                requests.append(Request(part, prompts, self._name(model), shared, seed, adapter))
        return requests

    def _seed(self, call: Call) -> int | None:
        # vLLM 0.27 seeds every prompt of a request alike, so that the draws of one request would resemble each other.
        if call.params.temperature == 0 or not self.http.own_seeds:
            return None
        return draw_seed(self.settings.seed, call)

    def _name(self, model: ModelRef) -> str:
        """What the servers call a model. An adapter is named after its weights: servers outlive runs and their folders,
        and their prefix caches are keyed on the name."""
        if model not in self._names:
            base = self.http.model or model.base
            if self._bases.setdefault(base, model.base) != model.base:
                problem = f"'{base}' stands for {self._bases[base]} and cannot stand for {model.base} too"
                raise InputError("serving.http.model", problem, "leave it out, or use adapters on one base")
            self._names[model] = f"adapter-{weights_digest(model.adapter)}" if model.adapter else base
        return self._names[model]

    async def _work(self, servers: Servers, waiting: deque[Request], arrived: asyncio.Queue[Piece | Exception]) -> None:
        """Take requests from those waiting until none is left, or one fails for good."""
        try:
            while waiting:
                request = waiting.popleft()
                try:
                    arrived.put_nowait(await self._answer(servers, request))
                except _PromptRefused as error:
                    if len(set(request.prompts)) == 1:
                        arrived.put_nowait([(place, _refusal(str(error))) for place in request.places])
                    else:
                        waiting.extendleft(request.halves())
        except Exception as error:
            arrived.put_nowait(error)

    async def _answer(self, servers: Servers, request: Request) -> Piece:
        """The request's completions, after as many tries as it takes and may take."""
        deadline: float | None = None
        tries = retries = 0
        while True:
            async with servers.one(deadline) as server:
                tries += 1
                try:
                    completions = await self._try(server, request)
                    server.well()
                    return list(zip(request.places, completions, strict=True))
                except Failed as failure:
                    now = monotonic()
                    server.set_aside(failure, now)
                    retries += failure.is_retry
                    deadline = deadline or now + self.http.deadline
            if retries > self.http.retries or now >= deadline:
                raise servers.none_answers(tries)

    async def _try(self, server: Server, request: Request) -> list[Completion]:
        if request.adapter and request.model not in server.adapters:
            await self._load(server, request.model, request.adapter)
        response = await self._post(server, request)
        if response.status_code == 404 and request.adapter and request.model in server.adapters:
            server.adapters.discard(request.model)  # the server was started again since
            remedy = f"start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 or --lora-modules {request.model}=FOLDER"
            raise Failed(f"does not know the adapter {request.adapter} ({remedy})")
        self._check(server, response)
        try:
            read_choice = chat_choice if self._chat else text_choice
            return read_reply(response.content, request.prompts, request.params.logprob, read_choice)
        except BadReply as error:
            raise Failed(str(error)) from None

    async def _post(self, server: Server, request: Request) -> httpx.Response:
        """What the server says to a request; a chat model is asked again without what it refuses and can be without."""
        if not self._chat:
            return await server.post("/completions", request.body(self._vllm))
        while True:
            body = chat_body(request, self._vllm, self._refused)
            response = await server.post("/chat/completions", body)
            field = refused_field(response.content, body) if response.status_code == 400 else None
            if field is None:
                return response
            self._refused.add(field)

    async def _load(self, server: Server, name: str, adapter: str) -> None:
        """Have vLLM load an adapter. A server without that route is taken to have been started with it."""
        async with server.loading:
            if name in server.adapters:
                return
            body = {"lora_name": name, "lora_path": adapter}
            response = await server.post("/load_lora_adapter", body)
            words, _ = words_of(response.content, self._key)
            has_no_route = response.status_code == 405 or (response.status_code == 404 and words == "Not Found")
            if not has_no_route and "already" not in words:
                self._check(server, response)
            server.adapters.add(name)

    def _check(self, server: Server, response: httpx.Response) -> None:
        """Raises Failed for a status after which asking again may help, ServingError for one after which it cannot."""
        status = response.status_code
        if status == 200:
            return
        words, one_prompt = words_of(response.content, self._key)
        if status in (408, 429) or status >= 500:
            later = status in (429, 503)  # it asks for patience, and only the deadline ends that
            pause = min(_retry_after(response), self.http.deadline)
            raise Failed(f"answered {status} ({words})", not later, pause)
        if one_prompt:
            raise _PromptRefused(words)
        if self._chat and "chat template" in words:
            remedy = "give the server one (vLLM: --chat-template FILE), or set it to 'completions'"
            raise InputError("serving.http.endpoint", f"is 'chat', and {server.url} says: {words}", remedy)
        if not self._chat and "chat/completions" in words:
            raise InputError(
                "serving.http.endpoint", f"is 'completions', and {server.url} says: {words}", "set it to 'chat'"
            )
        raise ServingError(f"{server.url} refused {response.url.path} with {status}: {words}")


def _fault(prompt: str) -> str | None:
    """Why a prompt cannot be sent, or None."""
    if not prompt.strip():
        return "the prompt is empty"
    try:
        prompt.encode()
    except UnicodeEncodeError:  # half a character, as broken model output may hold
        return "the prompt is not valid text"
    return None


def _refusal(reason: str) -> Completion:
    return Completion("", 0, 0, finished=False, error=reason)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to be left alone. It may also name a date, which is treated as no word at all."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"${variable}", "is not set", "export the servers' key, or leave serving.http.api_key_env out")
    return key
