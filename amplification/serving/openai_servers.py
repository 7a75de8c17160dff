"""The servers of one event loop: which one gets the next request, and which are set aside for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx

from amplification.errors import ServingError
from amplification.serving.config import HttpConfig

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds
# Seconds that an idle connection is kept: fewer than servers do (uvicorn, under vLLM: 5), since a request that crosses
# a server's hanging up is lost with it.
KEPT_ALIVE = 2.0
WHOEVER_WAITS = 2**31


class Failed(Exception):
    """A try that did not end in a reply.

    is_retry: it counts against the request's retries; pause: seconds that the server asked for.
    """

    def __init__(self, reason: str, is_retry: bool = True, pause: float = 0.0) -> None:
        self.reason, self.is_retry, self.pause = reason, is_retry, pause
        super().__init__(reason)


@dataclass(eq=False)
class Server:
    """One server as this loop sees it. `until`: set aside up to this time of the monotonic clock."""

    url: str
    client: httpx.AsyncClient
    timeout: float
    under_way: int = 0
    failures: int = 0
    until: float = 0.0
    trouble: str = ""
    adapters: set[str] = field(default_factory=set)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """A whole response, whatever its status. Raises Failed if there is none within the timeout."""
        try:
            async with asyncio.timeout(self.timeout):
                response = await self.client.post(self.url.rstrip("/") + path, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Failed(f"cannot be reached ({str(error) or 'timeout'})", is_retry=False) from None
        except (TimeoutError, httpx.TimeoutException):
            raise Failed(f"did not answer within {self.timeout:g} s") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Failed(f"broke off its answer ({type(error).__name__})") from None
        return response

    def well(self) -> None:
        """It answered: the next failure is its first."""
        self.failures, self.trouble = 0, ""

    def set_aside(self, failure: Failed, now: float) -> None:
        """Leave it alone for a while: as long as it asks for, and longer after each failure in a row.

        Requests that were under way together fail together, and that counts once.
        """
        self.trouble = failure.reason
        pause = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.failures))
        if now >= self.until:
            self.failures = min(self.failures + 1, 30)
        self.until = max(self.until, now + pause + failure.pause)


class Servers:
    """All servers of a configuration, with clients that belong to the running loop."""

    def __init__(self, settings: HttpConfig, key: str | None) -> None:
        self.settings = settings
        self.all = [Server(url, _client(url, settings, key), settings.timeout) for url in settings.servers]
        self._free = asyncio.Condition()

    @property
    def capacity(self) -> int:
        """How many requests can be under way at once."""
        return len(self.all) * self.settings.requests_under_way

    async def close(self) -> None:
        """Close every connection; to be awaited in the loop that they belong to."""
        for server in self.all:
            await server.client.aclose()

    @asynccontextmanager
    async def one(self, deadline: float | None) -> AsyncIterator[Server]:
        """A server for one request: the least busy of those not set aside, once there is one.

        deadline: a time of the monotonic clock. Raises ServingError at that time if all servers are set aside.
        """
        server = await self._acquire(deadline)
        try:
            yield server
        finally:
            server.under_way -= 1
            async with self._free:
                # If it was set aside, those who wait must reckon with that; else there is room for one more.
                self._free.notify(1 if server.until <= monotonic() else WHOEVER_WAITS)

    def none_answers(self, tries: int) -> ServingError:
        """The error that names every server with its trouble."""
        told = "; ".join(f"{server.url} {server.trouble or 'was not asked'}" for server in self.all)
        return ServingError(f"no server gave an answer in {tries} tries: {told}")

    async def _acquire(self, deadline: float | None) -> Server:
        async with self._free:
            while True:
                now = monotonic()
                up = [server for server in self.all if server.until <= now]
                free = [server for server in up if server.under_way < self.settings.requests_under_way]
                if free:
                    server = min(free, key=lambda server: server.under_way)
                    server.under_way += 1
                    return server
                if not up and deadline is not None and now >= deadline:
                    raise self.none_answers(0)
                moments = [server.until for server in self.all if server.until > now]
                if deadline is not None and not up:
                    moments.append(deadline)
                await self._wait(min(moments, default=None), now)

    async def _wait(self, until: float | None, now: float) -> None:
        """Until a request ends, or a server's pause does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else max(0.001, until - now)):
                await self._free.wait()


def _client(url: str, settings: HttpConfig, key: str | None) -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=settings.requests_under_way, keepalive_expiry=KEPT_ALIVE)
    encrypted = url.startswith("https:")
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(None, connect=min(settings.timeout, 10.0)),
        limits=limits,
        trust_env=not _is_loopback(url),  # a proxy from the environment has no business between us and ourselves
        verify=encrypted,  # reading certificates takes longer than many episodes, and plain HTTP has none
    )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
