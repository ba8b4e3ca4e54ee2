"""Who may ask, and how much: a token, the size of bodies, and the requests at once."""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/healthz",)
"""Paths that need no token, and are answered under any load: probes have none, and must not fail when it is busy."""
BODY_BYTES, BODY_SECONDS = 1 << 20, 10.0
MOST_EDGES = 10_000
"""In a request to `/embed`."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    ids: int = 256
    """Ids or pairs."""
    k: int = 1000
    requests: int = 256
    """At once."""


class Guarded:
    """Refuses requests without the token, with a body that is too large or slow, or beyond those at once."""

    def __init__(self, app: ASGIApp, token: str | None, most_requests: int) -> None:
        self._app, self._left = app, most_requests
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._token is not None and not hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            await _refuse(send, 401, "the token is missing or wrong", (b"www-authenticate", b"Bearer"))
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(headers.get(b"content-length"), receive)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds")
            return
        if body is None:
            await _refuse(send, 413, f"the body has more than {BODY_BYTES:,} bytes")
            return
        if not self._left:
            await _refuse(send, 503, "too many requests at once; try again", (b"retry-after", b"1"))
            return
        self._left -= 1
        try:
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._left += 1


async def _read_body(length: bytes | None, receive: Receive) -> bytes | None:
    """The whole body; None if it is too large."""
    if length is not None and int(length) > BODY_BYTES:
        return None
    parts, size, is_complete = list[bytes](), 0, False
    while not is_complete:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES:
            return None
        is_complete = not message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, then what `receive` does."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": reason}).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    if status in (408, 413):
        sent.append((b"connection", b"close"))  # what is left of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})
