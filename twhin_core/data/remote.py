"""Reads edges from reader processes over Arrow Flight: the same edges as in process, even if readers fail.

Windows are distributed among the readers in turn, and the next window is requested while the current one is consumed.
A broken stream is resumed where it broke: first from the same reader, then from another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from twhin_core.data.edges import Edges
from twhin_core.data.epochs import Request
from twhin_core.data.prefetch import Ahead
from twhin_core.data.readers import CHECK, REFUSED, Check, Secrets, Served, Ticket
from twhin_core.errors import ReadersLost, UserError, one_line
from twhin_core.progress import log

WINDOWS_AT_ONCE = 2
CHUNKS_AHEAD = 4

CALL_TIMEOUT = 60
"""Seconds without data after which a reader counts as lost."""

MAX_RETRY_DELAY = 5.0

READ_ERRORS = (flight.FlightError, pa.ArrowException, OSError)

# Use a separate channel for each call, because gRPC would remember for a long time that a reader was unavailable.
CHANNEL = [("grpc.use_local_subchannel_pool", 1)]


class Remote:
    """An `EdgeReader` that reads from other processes. Leaving its context cancels all streams."""

    def __init__(self, readers: list[str], served: Served, secrets: Secrets, timeout: float) -> None:
        """`readers`: a `HOST:PORT` each; `timeout`: seconds without edges from any of them before giving up."""
        self._served, self._secrets, self._timeout = served, secrets, timeout
        self._schedule = _Schedule(readers)
        self._closed = threading.Event()
        self._streams: set[flight.FlightStreamReader] = set()

    def __enter__(self) -> Remote:
        """Checks that every reader serves the expected edges. A reader may also become available later.

        Raises:
            UserError: a reader serves other edges or refuses the token.
        """
        for reader in self._schedule.readers:
            try:
                with self._connect(reader) as client:
                    body = Check(served=self._served).model_dump_json().encode()
                    list(client.do_action(flight.Action(CHECK, body), self._options(10)))
            except READ_ERRORS as error:
                _raise_if_refused(reader, error)
                log.warning("train: the reader %s does not answer yet: %s", reader, _message(error))
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for stream in list(self._streams):
            stream.cancel()

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        """As `EdgeReader.read`.

        Raises:
            UserError: a reader serves other edges, refuses the token, or found an invalid edge.
            ReadersLost: no reader has answered within the timeout.
        """
        remaining = iter(requests)
        windows: deque[Ahead[Edges]] = deque()
        try:
            while True:
                while len(windows) < WINDOWS_AT_ONCE and (request := next(remaining, None)) is not None:
                    windows.append(Ahead(self._window(request), CHUNKS_AHEAD))
                if not windows:
                    return
                with windows[0] as edges:
                    yield from edges
                windows.popleft()
        finally:
            for window in windows:
                window.close()

    def _window(self, request: Request) -> Generator[Edges]:
        """The edges of one request, from any available readers."""
        turn, last_success = request.epoch + request.window, time.monotonic()
        failed: set[str] = set()
        while request.begin < request.end:
            reader, delay = self._schedule.choose(turn)
            if self._closed.wait(delay):
                raise ReadersLost("the client was closed")
            got_some = False
            try:
                for end, edges in self._stream(reader, request):
                    request, got_some = replace(request, begin=end), True
                    self._schedule.succeeded(reader)
                    yield edges
                    last_success = time.monotonic()
                    failed.clear()
                if got_some and request.begin == request.end:
                    return
                raise OSError("the stream ended early")
            except READ_ERRORS as error:
                _raise_if_refused(reader, error)
                if got_some and isinstance(error, flight.FlightTimedOutError):
                    continue  # the consumer was busy, not the reader
                log.info("train: lost the reader %s: %s", reader, _message(error))
                self._schedule.failed(reader)
                failed.add(reader)
                readers = self._schedule.readers
                if len(failed) == len(readers) and time.monotonic() - last_success > self._timeout:
                    raise ReadersLost(
                        f"none of the readers {', '.join(readers)} has answered for {self._timeout:g} s "
                        f"(training.readers_timeout_in_s); last error: {_message(error)}; run it again to resume from "
                        "the newest checkpoint"
                    ) from None

    def _stream(self, reader: str, request: Request) -> Iterator[tuple[int, Edges]]:
        """Chunks of edges, each with the position after it."""
        with self._connect(reader) as client:
            seconds = min(CALL_TIMEOUT, self._timeout)
            stream = client.do_get(flight.Ticket(Ticket.of(self._served, request)), self._options(seconds))
            self._streams.add(stream)
            try:
                while not self._closed.is_set():
                    try:
                        chunk = stream.read_chunk()
                    except StopIteration:
                        return
                    yield int(chunk.app_metadata.to_pybytes()), _to_edges(chunk.data)
            finally:
                self._streams.discard(stream)
                stream.cancel()

    def _connect(self, reader: str) -> flight.FlightClient:
        ca = self._secrets.ca
        scheme = "grpc" if ca is None else "grpc+tls"
        return flight.FlightClient(f"{scheme}://{reader}", tls_root_certs=ca, generic_options=CHANNEL)

    def _options(self, seconds: float) -> flight.FlightCallOptions:
        token = self._secrets.token
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        return flight.FlightCallOptions(timeout=seconds, headers=headers)


def _to_edges(batch: pa.RecordBatch) -> Edges:
    """Copies a batch to arrays that are writable, as in process; Arrow's are not."""
    lhs, rel, rhs = (batch[name].to_numpy().astype(np.int64) for name in ("lhs", "rel", "rhs"))
    if "weight" in batch.schema.names:
        return Edges(lhs, rel, rhs, batch["weight"].to_numpy().copy())
    return Edges(lhs, rel, rhs, np.ones(len(lhs), np.float32))


def _raise_if_refused(reader: str, error: Exception) -> None:
    if isinstance(error, flight.FlightUnauthenticatedError):
        raise UserError(f"the reader {reader} refuses this process: the token is missing or wrong") from None
    if isinstance(error, flight.FlightError) and error.extra_info == REFUSED:
        raise UserError(f"the reader {reader} refuses: {_message(error)}") from None


def _message(error: Exception) -> str:
    """The first line of an error's message, without gRPC's context."""
    return one_line(error).split(". gRPC client debug context:")[0].split(". Detail:")[0]


class _Schedule:
    """Chooses readers in turn, and avoids those that failed recently."""

    def __init__(self, readers: list[str]) -> None:
        self.readers = readers
        self._lock = threading.Lock()
        self._failures = dict.fromkeys(readers, 0)
        self._paused_until = dict.fromkeys(readers, 0.0)

    def choose(self, turn: int) -> tuple[str, float]:
        """The reader for a turn, or the next one that is available, and the seconds to wait before using it."""
        with self._lock:
            now = time.monotonic()
            first = turn % len(self.readers)
            in_turn = self.readers[first:] + self.readers[:first]
            delays = {reader: max(self._paused_until[reader] - now, 0.0) for reader in in_turn}
            reader = min(in_turn, key=delays.__getitem__)
            return reader, delays[reader]

    def succeeded(self, reader: str) -> None:
        with self._lock:
            self._failures[reader] = 0
            self._paused_until[reader] = 0.0

    def failed(self, reader: str) -> None:
        """Pauses a reader: not after the first failure, then exponentially longer."""
        with self._lock:
            self._failures[reader] += 1
            count = self._failures[reader]
            delay = 0.0 if count == 1 else min(0.1 * 2 ** (count - 2), MAX_RETRY_DELAY)
            self._paused_until[reader] = time.monotonic() + delay
