"""Who works under a run root: one process a stage, so that two runs on one root do not mix.

On a local disk the lease is a lock of the operating system on `<root>/.leases/<stage>`, which ends with its process,
however that ends. On an object store it is an object of that name, which its holder renews every `BEAT` seconds on the
condition that nobody else has written it. A process that finds one takes it over, on the same condition, when it is
given back, when its holder ran on this machine and is dead, or when it has not been renewed for `EXPIRY` seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from twhin_core import storage
from twhin_core.errors import StorageError, StorageRefused, UserError
from twhin_core.progress import log

FOLDER = ".leases"
STAGES = ("run", "prepare", "train", "evaluate", "follow", "export")
"""What leases there are for long; `publish` and `config` are held for moments only."""

BEAT, EXPIRY = 10.0, 60.0
PATIENCE = 20.0
"""Seconds that a holder is waited for who is alive: the last run's may just be ending."""


class Lease(Protocol):
    """A stage's, of one root."""

    def acquire(self) -> bool:
        """Takes it, if it is free."""
        ...

    def is_free(self) -> bool:
        """Whether `acquire` would take it."""
        ...

    def is_seen_alive(self) -> bool:
        """Whether the one who holds it is known to be alive."""
        ...

    def holder(self) -> str: ...

    def release(self) -> None: ...


@contextlib.contextmanager
def hold(root: str, stage: str, patience: float | None = None) -> Iterator[None]:
    """Holds the lease of `stage` under `root` while the block runs.

    Raises:
        StorageRefused: the root cannot be written.
        UserError: a living process holds it, and does not end within `patience` seconds, by default `PATIENCE`.
    """
    lease = _lease(root, stage)
    _wait(lease.acquire, lease, root, stage, PATIENCE if patience is None else patience)
    try:
        yield
    finally:
        lease.release()


def check_alone(root: str, stage: str) -> None:
    """Raises UserError if a living process holds the lease of another stage than `stage` under `root`."""
    for other in STAGES:
        if other not in (stage, "run"):
            lease = _lease(root, other)
            _wait(lease.is_free, lease, root, other, 0)


def holder(root: str, stage: str) -> str:
    """Who holds the lease of `stage` under `root`, or held it until it died."""
    text, _ = storage.read_generation(storage.join(root, FOLDER, stage))
    return _named(text)


def _lease(root: str, stage: str) -> Lease:
    url = storage.join(root, FOLDER, stage)
    return _ObjectLease(url) if storage.is_remote(root) else _FileLease(storage.filesystem(url)[1])


def _wait(is_done: Callable[[], bool], lease: Lease, root: str, stage: str, patience: float) -> None:
    started, said = time.monotonic(), False
    while not is_done():
        waited = time.monotonic() - started
        if lease.is_seen_alive() and waited >= patience:
            raise UserError(f"{root}: another run is at work here: {stage}, {lease.holder()}; use another --run-root")
        if not said:
            log.info("%s: waits for %s, which works under this run root, or did", stage, lease.holder())
            said = True
        time.sleep(min(0.1 + waited / 10, 2.0))


class _FileLease:
    """A lock on a file, which says who holds it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.truncate(self._descriptor, 0)
                with open(self._descriptor, "w", closefd=False) as file:
                    file.write(json.dumps(_identity()))
            except OSError:
                os.close(self._descriptor)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageRefused(f"{self._path}: cannot be written: {error.strerror}") from error
        return True

    def is_free(self) -> bool:
        if not os.path.exists(self._path):
            return True
        free = self.acquire()
        if free:
            self.release()
        return free

    def is_seen_alive(self) -> bool:
        return True  # the lock ends with its process

    def holder(self) -> str:
        return _named(Path(self._path).read_text())

    def release(self) -> None:
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)


class _ObjectLease:
    """An object that its holder renews; empty once it is given back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._mine = {**_identity(), "owner": uuid.uuid4().hex, "beat": "0"}
        self._generation = 0
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        # Of another's: what was found last, when that was new, and whether it has changed since the first look.
        self._found: tuple[str, int] | None = None
        self._since = 0.0
        self._changed = False

    def acquire(self) -> bool:
        if not self.is_free():
            return False
        assert self._found is not None
        generation = storage.write_if(self._url, json.dumps(self._mine), self._found[1])
        if generation is None:
            return False  # another was faster
        self._generation = generation
        self._heart.start()
        return True

    def is_free(self) -> bool:
        found = storage.read_generation(self._url)
        if found != self._found:
            self._changed = self._found is not None
            self._found, self._since = found, time.monotonic()
        text = found[0]
        return not text or _is_alive(text) is False or time.monotonic() - self._since > EXPIRY

    def is_seen_alive(self) -> bool:
        return self._changed or (self._found is not None and _is_alive(self._found[0]) is True)

    def holder(self) -> str:
        return _named(self._found[0] if self._found is not None else "")

    def release(self) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(StorageError):  # then it expires
            storage.write_if(self._url, "", self._generation)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._mine["beat"] = str(int(self._mine["beat"]) + 1)
            try:
                generation = storage.write_if(self._url, json.dumps(self._mine), self._generation)
            except StorageError as error:
                log.warning("the lease could not be renewed, and will be tried again: %s", error)
                continue
            if generation is None:
                _end(f"error: {self._url}: another run has taken over this run root, so this one ends")
            else:
                self._generation = generation


def _end(reason: str) -> None:
    """Ends the process before it writes anything more: what it leaves behind is as after a kill."""
    sys.stderr.write(reason + "\n")
    sys.stderr.flush()
    os._exit(1)


def _identity() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "started": _started(os.getpid()) or "",
        "machine": _machine(),
    }


def _named(text: str) -> str:
    """The holder that a lease's text names."""
    if not text:
        return "nobody"
    identity: dict[str, str] = json.loads(text)
    return f"process {identity['pid']} on {identity['host']}"


def _is_alive(text: str) -> bool | None:
    """Whether the process of a lease lives, where that can be told: None on another machine or in another container."""
    if not text:
        return False
    identity: dict[str, str] = json.loads(text)
    if identity["machine"] != _machine():
        return None
    return _started(int(identity["pid"])) == identity["started"]


def _machine() -> str:
    """What two processes share that see each other: this start of the machine, and the container."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return uuid.uuid4().hex  # not Linux: no process of another is known
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if there is none, or it is dead but not reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
