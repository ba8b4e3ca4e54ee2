"""A reader process: serves the training edges over Arrow Flight, to any number of ranks."""

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

Asked = TypeVar("Asked", bound=Check)

WINDOWS_HELD = 3
"""Ranks at the end of a window ask for it, the next, and the one after that ahead of time."""


def serve(config: Config, root: str, bind: str) -> None:
    """Serves the training edges of the run at `root` until SIGTERM or SIGINT, which end the process.

    `bind`: the address to listen at, port 0 for any free one.

    Raises:
        UserError: a mistake in the config, the edges, the address or the secrets, or an address that is taken.
    """
    host, port = parse_address(bind, "--bind")
    secrets = read_secrets()
    if secrets.token is None and not is_loopback(host):
        raise UserError(f"--bind: {bind} can be reached from other machines; set a token in {TOKEN}, or a file of one")
    files = open_split(config, root, read_schema(config, root), "train")
    windows = Windows(files, config.training.seed, config.train_data.shuffle_buffer, WINDOWS_HELD)
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # the server's threads must not take them
    try:
        server = EdgeServer(f"{host}:{port}", windows, served_edges(config, files), secrets)
    except (pa.ArrowException, flight.FlightError, OSError) as error:
        raise UserError(f"--bind: cannot listen at {bind}: {one_line(error)}") from None
    log.info("serve-edges: %s edges at %s:%d", f"{len(files):,}", host, server.port)
    if secrets.token is not None and secrets.cert is None and not is_loopback(host):
        log.warning("serve-edges: without TLS, the token can be read on its way")
    log.info("serve-edges: stopped by %s", signal.Signals(signal.sigwait(stops)).name)
    os._exit(0)  # a shutdown would wait for every stream that nobody reads on; there is nothing to lose


class EdgeServer(flight.FlightServerBase):  # type: ignore[misc] # pyarrow carries no types
    """Streams a rank's edges in a window of an epoch. It makes them as they are taken, and holds some windows."""

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
        """Each batch with the position to go on from after it."""
        try:
            for end, edges in read_chunks(self._windows, request):
                yield to_batch(edges, self._schema), str(end).encode()
        except UserError as error:
            raise _refusal(str(error)) from None

    def _parse(self, kind: type[Asked], body: bytes) -> Asked:
        """What is asked for; refuses it if the caller wants other edges than are served."""
        try:
            asked = kind.model_validate_json(body)
        except ValidationError:
            raise _refusal("it does not understand what it is asked, and may be of another version") from None
        for name, value in self._served.items():
            if asked.served.get(name) != value:
                raise _refusal(f"{name} is {value} there, {asked.served.get(name)} here")
        return asked


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc] # pyarrow carries no types
    """Refuses every call without the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: flight.CallInfo, headers: Mapping[str, Sequence[str | bytes]]) -> None:
        given = headers.get("authorization") or headers.get("Authorization") or [""]
        value = given[0].encode() if isinstance(given[0], str) else given[0]
        if not hmac.compare_digest(value, self._expected):
            raise flight.FlightUnauthenticatedError("the token is missing or another one")


def _refusal(reason: str) -> flight.FlightServerError:
    return flight.FlightServerError(reason, REFUSED)
