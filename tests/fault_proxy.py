"""An HTTP proxy that ill-treats a part of what passes through it, as a network and a busy server do."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import yarl
from aiohttp import web

BUSY = (429, 503)
KINDS = ("busy", "reset", "lost", "cut")
"""Answered 429 or 503; reset before the server heard of it; reset after it had acted; the answer cut short."""


@dataclass
class FaultProxy:
    """A proxy on loopback in front of the server at `upstream`; which requests it spoils follows from `seed`.

    Each request is judged by itself, by its method, address and how often it came before, so that the order of
    concurrent requests makes no difference.
    """

    upstream: str
    share: float
    seed: int = 0
    is_down: bool = False
    """While it is set, every request is answered 503."""
    url: str = ""
    store: str = ""
    """The scheme of the object store that the server is, if it is one."""
    dropped_headers: tuple[str, ...] = ()
    """Of requests, in lower case: as if the server did not know them."""
    requests: int = 0
    faults: collections.Counter[str] = field(default_factory=collections.Counter)

    def __post_init__(self) -> None:
        self._seen: collections.Counter[str] = collections.Counter()
        self._answers: dict[tuple[str, str], web.Response] = {}

    def _fault(self, request: web.Request) -> str | None:
        key = f"{request.method} {request.raw_path}"
        self._seen[key] += 1
        digest = hashlib.sha256(f"{self.seed} {key} {self._seen[key]}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.share:
            return None
        return KINDS[digest[8] % len(KINDS)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        fault, body = self._fault(request), await request.read()
        if fault is not None:
            self.faults[fault] += 1
        if fault == "busy" or self.is_down:
            return web.json_response({"error": {"message": "try again"}}, status=BUSY[self.faults["busy"] % len(BUSY)])
        if fault == "reset":
            return self._reset(request)
        try:
            answer = await self._forward(request, body)
        except aiohttp.ClientError:
            return self._reset(request)
        if fault == "lost":
            return self._reset(request)
        if fault == "cut" and isinstance(answer.body, bytes) and answer.body:
            return await self._cut(request, answer, answer.body)
        return answer

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        # Of a resumable upload, Google's server takes a part that is sent again for the one it has; this one would
        # append it. So it is told once.
        part = (request.raw_path, request.headers.get("Content-Range", ""))
        if "upload_id" in request.query and part in self._answers:
            return self._copy(self._answers[part])
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", *self.dropped_headers)
        }
        url = yarl.URL(self.upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False, skip_auto_headers=["Content-Type"]
        ) as response:
            kept = {
                name: value.replace(self.upstream, self.url)  # where a resumable upload goes on
                for name, value in response.headers.items()
                if name.lower() not in ("transfer-encoding", "content-encoding", "content-length", "connection")
            }
            if request.method == "HEAD":
                kept["Content-Length"] = response.headers.get("Content-Length", "0")
            answer = web.Response(status=response.status, headers=kept, body=await response.read())
        if "upload_id" in request.query:
            self._answers[part] = answer
        return self._copy(answer)

    @staticmethod
    def _copy(answer: web.Response) -> web.Response:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    @staticmethod
    def _reset(request: web.Request) -> web.Response:
        if request.transport is not None:  # it is, where the client has gone already
            request.transport.abort()
        return web.Response()

    @staticmethod
    async def _cut(request: web.Request, answer: web.Response, body: bytes) -> web.StreamResponse:
        """Announces the whole length, sends half of it and hangs up."""
        half = web.StreamResponse(status=answer.status, headers=answer.headers)
        half.content_length = len(body)
        with contextlib.suppress(ConnectionResetError):  # the client has gone already
            await half.prepare(request)
            await half.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return half

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            application = web.Application(client_max_size=1 << 30)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = "http://{}:{}".format(*runner.addresses[0])
            ready.set()
            await stop.wait()
            await runner.cleanup()


@contextlib.contextmanager
def fault_proxy(upstream: str, share: float, seed: int = 0) -> Iterator[FaultProxy]:
    """Runs one in a thread of this process."""
    proxy, ready, loop = FaultProxy(upstream, share, seed), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(proxy._serve(ready, stop)), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
