"""A reader process, which serves the training edges over Arrow Flight to any number of ranks."""

from __future__ import annotations

import hmac
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.flight as flight
from pydantic import ValidationError

from twhin_core.config import Config
from twhin_core.data.epochs import Request, read_chunks
from twhin_core.data.readers import (
    CHECK,
    REFUSED,
    TOKEN,
    TOKEN_FILE,
    Check,
    Secrets,
    Served,
    Ticket,
    edge_schema,
    is_loopback,
    parse_address,
    read_secrets,
    served_edges,
    to_batch,
)
from twhin_core.data.splits import open_split
from twhin_core.data.windows import Windows
from twhin_core.errors import UserError, one_line
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log

Message = TypeVar("Message", bound=Check)

WINDOWS_HELD = 3
"""Ranks near the end of a window also prefetch the next two."""


def serve(config: Config, root: str, bind: str) -> None:
    """Serves the training edges of the run at `root`, until SIGTERM or SIGINT end the process.

    `bind`: the `HOST:PORT` to listen on; port 0 picks a free one.

    Raises:
        UserError: the edges, the address or the secrets are invalid, or the address is in use.
    """
    host, port = parse_address(bind, "--bind")
    secrets = read_secrets()
    if secrets.token is None and not is_loopback(host):
        raise UserError(f"--bind: {bind} can be reached from other machines; set {TOKEN} or {TOKEN_FILE}")
    files = open_split(config, root, read_schema(config, root), "train")
    windows = Windows(files, config.training.seed, config.train_data.shuffle_buffer, WINDOWS_HELD)
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # so that only `sigwait` gets them, not the server's threads
    try:
        server = EdgeServer(f"{host}:{port}", windows, served_edges(config, files), secrets)
    except (pa.ArrowException, flight.FlightError, OSError) as error:
        raise UserError(f"--bind: cannot listen at {bind}: {one_line(error)}") from None
    log.info("serve-edges: %s edges at %s:%d", f"{len(files):,}", host, server.port)
    if secrets.token is not None and secrets.cert is None and not is_loopback(host):
        log.warning("serve-edges: the token is sent unencrypted, because TLS is not configured")
    log.info("serve-edges: stopped by %s", signal.Signals(signal.sigwait(stops)).name)
    os._exit(0)  # a graceful shutdown would wait for abandoned streams, and there is no state to save


class EdgeServer(flight.FlightServerBase):  # type: ignore[misc] # pyarrow has no types
    """Streams a rank's edges in a window of an epoch. Gathers them on demand, and keeps some windows in memory."""

    def __init__(self, address: str, windows: Windows, served: Served, secrets: Secrets) -> None:
        certificates = None if secrets.cert is None else [(secrets.cert, secrets.key)]
        super().__init__(
            f"{'grpc' if certificates is None else 'grpc+tls'}://{address}",
            tls_certificates=certificates,
            middleware=None if secrets.token is None else {"token": _TokenCheck(secrets.token)},
        )
        self._windows, self._served = windows, served
        self._schema = edge_schema(windows.files.weighted)

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> list[flight.Result]:
        if action.type != CHECK:
            raise _refusal(f"there is no action {action.type}")
        self._parse(Check, action.body.to_pybytes())
        return []

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.GeneratorStream:
        request = self._parse(Ticket, ticket.ticket).request
        shares, bounds = request.shares, self._windows.bounds(request.epoch)
        inside = request.window + 1 < len(bounds) and (
            max(shares.start, bounds[request.window]) <= request.begin
            and request.begin < request.end <= min(shares.stop, bounds[request.window + 1])
        )
        if not inside or shares.rank >= shares.world_size:
            raise _refusal("there are no such edges")
        return flight.GeneratorStream(self._schema, self._stream(request))

    def _stream(self, request: Request) -> Iterator[tuple[pa.RecordBatch, bytes]]:
        """Batches, each with the position after it."""
        try:
            for end, edges in read_chunks(self._windows, request):
                yield to_batch(edges, self._schema), str(end).encode()
        except UserError as error:
            raise _refusal(str(error)) from None

    def _parse(self, kind: type[Message], body: bytes) -> Message:
        """Parses a message from a client. Refuses it if the client expects other edges."""
        try:
            message = kind.model_validate_json(body)
        except ValidationError:
            raise _refusal("it does not understand the request, and may have another version") from None
        for name, value in self._served.items():
            if message.served.get(name) != value:
                raise _refusal(f"{name} is {value} there, {message.served.get(name)} here")
        return message


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc] # pyarrow has no types
    """Refuses calls without the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: flight.CallInfo, headers: Mapping[str, Sequence[str | bytes]]) -> None:
        given = headers.get("authorization") or headers.get("Authorization") or [""]
        value = given[0].encode() if isinstance(given[0], str) else given[0]
        if not hmac.compare_digest(value, self._expected):
            raise flight.FlightUnauthenticatedError("the token is missing or wrong")


def _refusal(reason: str) -> flight.FlightServerError:
    return flight.FlightServerError(reason, REFUSED)
