"""Edges from reader processes over Arrow Flight: the same as in process, whatever becomes of a reader.

Windows go round the readers, which so share the work of reading them; the next window is asked for while the present
one is taken. A stream that breaks is gone on with where it broke: from the same reader once more, then from another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from types import TracebackType

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

CALL_SECONDS = 60
"""A reader that sends nothing for so long is taken for lost."""

LONGEST_PAUSE = 5.0

BROKEN = (flight.FlightError, pa.ArrowException, OSError)

# A channel of its own for each call, or gRPC would remember for long that a reader was not there.
CHANNEL = [("grpc.use_local_subchannel_pool", 1)]


class Remote:
    """Edges read by other processes; to be used as a context, whose end breaks off what is under way."""

    def __init__(self, readers: list[str], served: Served, secrets: Secrets, timeout: float) -> None:
        """`readers`: `HOST:PORT` of each; `timeout`: seconds without an edge from any of them that are too many."""
        self._served, self._secrets, self._timeout = served, secrets, timeout
        self._turns = _Turns(readers)
        self._closed = threading.Event()
        self._streams: set[flight.FlightStreamReader] = set()

    def __enter__(self) -> Remote:
        """Asks every reader whether it serves the same. One that does not answer may still come.

        Raises:
            UserError: a reader serves other edges, or refuses the token.
        """
        for reader in self._turns.readers:
            try:
                with self._connect(reader) as client:
                    body = Check(served=self._served).model_dump_json().encode()
                    list(client.do_action(flight.Action(CHECK, body), self._options(10)))
            except BROKEN as error:
                _raise_if_refused(reader, error)
                log.warning("train: the reader %s does not answer yet: %s", reader, _said(error))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for stream in list(self._streams):
            stream.cancel()

    def read(self, requests: Iterable[Request]) -> Iterator[Edges]:
        """As the edges of `epochs.Source`.

        Raises:
            UserError: a reader serves other edges, refuses the token, or found an edge that cannot be.
            ReadersLost: no reader has answered for the timeout.
        """
        waiting = iter(requests)
        coming: deque[Ahead[Edges]] = deque()
        try:
            while True:
                while len(coming) < WINDOWS_AT_ONCE and (request := next(waiting, None)) is not None:
                    coming.append(Ahead(self._window(request), CHUNKS_AHEAD))
                if not coming:
                    return
                with coming[0] as edges:
                    yield from edges
                coming.popleft()
        finally:
            for window in coming:
                window.close()

    def _window(self, request: Request) -> Generator[Edges]:
        """The edges of one request, from whichever readers can give them."""
        home, since = request.epoch + request.window, time.monotonic()
        failed: set[str] = set()
        while request.begin < request.end:
            reader, pause = self._turns.choose(home)
            if self._closed.wait(pause):
                raise ReadersLost("reading was ended")
            got_some = False
            try:
                for end, edges in self._stream(reader, request):
                    request, got_some = replace(request, begin=end), True
                    self._turns.answered(reader)
                    yield edges
                    since = time.monotonic()
                    failed.clear()
                if got_some and request.begin == request.end:
                    return
                raise OSError("the stream ended early")
            except BROKEN as error:
                _raise_if_refused(reader, error)
                if got_some and isinstance(error, flight.FlightTimedOutError):
                    continue  # those who take the edges were busy, not the reader
                log.info("train: lost the reader %s: %s", reader, _said(error))
                self._turns.failed(reader)
                failed.add(reader)
                if len(failed) == len(self._turns.readers) and time.monotonic() - since > self._timeout:
                    raise ReadersLost(
                        f"none of the readers {', '.join(self._turns.readers)} has answered for {self._timeout:g} s "
                        f"(training.readers_timeout_in_s); the last said: {_said(error)}; run it again to go on from "
                        "the newest checkpoint"
                    ) from None

    def _stream(self, reader: str, request: Request) -> Iterator[tuple[int, Edges]]:
        """Edges as they come, each part with the position to go on from after it."""
        with self._connect(reader) as client:
            seconds = min(CALL_SECONDS, self._timeout)
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
    """In arrays of their own, as in process; Arrow's are read-only."""
    lhs, rel, rhs = (batch[name].to_numpy().astype(np.int64) for name in ("lhs", "rel", "rhs"))
    if "weight" in batch.schema.names:
        return Edges(lhs, rel, rhs, batch["weight"].to_numpy().copy())
    return Edges(lhs, rel, rhs, np.ones(len(lhs), np.float32))


def _raise_if_refused(reader: str, error: Exception) -> None:
    if isinstance(error, flight.FlightUnauthenticatedError):
        raise UserError(f"the reader {reader} refuses this process: the token is missing or another one") from None
    if isinstance(error, flight.FlightError) and error.extra_info == REFUSED:
        reason = str(error).split(". Detail:")[0].split(". gRPC client debug context:")[0]
        raise UserError(f"the reader {reader} refuses: {reason}") from None


def _said(error: Exception) -> str:
    """What an error says in one line, without gRPC's own context."""
    return one_line(error).split(". gRPC client debug context:")[0].split(". Detail:")[0]


class _Turns:
    """Whose turn it is: the readers in their order, but for those that failed lately."""

    def __init__(self, readers: list[str]) -> None:
        self.readers = readers
        self._lock = threading.Lock()
        self._failures = dict.fromkeys(readers, 0)
        self._rests_until = dict.fromkeys(readers, 0.0)

    def choose(self, home: int) -> tuple[str, float]:
        """The reader to ask, beginning with the `home`-th, and the seconds to wait before that."""
        with self._lock:
            now = time.monotonic()
            ring = [self.readers[(home + turn) % len(self.readers)] for turn in range(len(self.readers))]
            reader = min(ring, key=lambda reader: max(self._rests_until[reader] - now, 0.0))
            return reader, max(self._rests_until[reader] - now, 0.0)

    def answered(self, reader: str) -> None:
        with self._lock:
            self._failures[reader] = 0
            self._rests_until[reader] = 0.0

    def failed(self, reader: str) -> None:
        """At once it may be asked again; then after pauses that grow."""
        with self._lock:
            self._failures[reader] += 1
            count = self._failures[reader]
            pause = 0.0 if count == 1 else min(0.1 * 2 ** (count - 2), LONGEST_PAUSE)
            self._rests_until[reader] = time.monotonic() + pause
