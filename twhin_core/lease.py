"""Leases that admit one process per stage to a run root, so that two runs on one root do not mix.

On a local disk, a lease is an operating system lock on `<root>/.leases/<stage>`, which is released however its process
ends. Its holder ends if somebody removes that file, and with it the lock. On an object store, the lease is an object of
that name. Its holder renews it every `HEARTBEAT` seconds by writing it on the condition that nobody else has. Another
process takes it over, on the same condition, once it is released, once its holder is known to be dead (on the same
machine), or once it has not been renewed for `EXPIRY` seconds. By then a holder that could not renew it has ended,
together with the writes that it was retrying, so that two processes never write under one root.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from twhin_core import storage
from twhin_core.errors import LeaseLost, StorageError, StorageRefused, TwhinError, UserError
from twhin_core.progress import log, show_error
from twhin_core.stores.interface import Generation

FOLDER = ".leases"
STAGES = ("run", "prepare", "train", "evaluate", "follow", "export", "recommend")
"""The leases that are held for long; `publish` and `config` are only held for moments."""

HEARTBEAT, EXPIRY = 10.0, 180.0
"""Seconds. A holder survives an outage of the object store for as long as it retries a request, and a minute more."""
LONGEST_SILENCE = 0.9
"""The part of `EXPIRY` after which a holder that could not renew its lease ends. The rest is for the end to happen."""
LOOK = 1.0
"""Seconds between two looks whether the file of a lease is still there."""
GRACE = 20.0
"""Seconds to wait for a living holder, which may be the end of a previous run."""


@contextlib.contextmanager
def hold(root: str, stage: str, grace: float = GRACE) -> Iterator[None]:
    """Holds the lease of `stage` under `root` while the block runs.

    Raises:
        StorageRefused: the root cannot be written.
        UserError: a living process holds the lease and does not release it within `grace` seconds.
    """
    lease = _lease(root, stage)
    _wait(lease.acquire, lease, root, stage, grace)
    lease.watch()
    try:
        yield
    finally:
        lease.release()


def check_alone(root: str, *own: str) -> None:
    """Raises UserError if a living process holds the lease of a stage under `root` that is not one of `own`."""
    for other in STAGES:
        if other not in own:
            lease = _lease(root, other)
            _wait(lease.is_free, lease, root, other, 0)


class Holder(NamedTuple):
    """Who a lease names."""

    name: str
    is_alive: bool | None
    """None if it runs on another machine or in another container, where this process cannot see it."""


def look(root: str, stage: str) -> Holder | None:
    """The process that the lease of `stage` names, or None if it is free. Takes nothing and writes nothing."""
    text, _ = storage.read_generation(storage.join(root, FOLDER, stage))
    return Holder(_holder_name(text), _is_alive(text)) if text else None


def _lease(root: str, stage: str) -> _FileLease | _ObjectLease:
    url = storage.join(root, FOLDER, stage)
    return _ObjectLease(url) if storage.is_remote(root) else _FileLease(storage.filesystem(url)[1])


def _wait(is_done: Callable[[], bool], lease: _FileLease | _ObjectLease, root: str, stage: str, grace: float) -> None:
    started, has_logged = time.monotonic(), False
    while not is_done():
        waited = time.monotonic() - started
        if lease.has_living_holder() and waited >= grace:
            raise UserError(f"{root}: another run is active here: {stage}, {lease.holder()}; use another --run-root")
        if not has_logged:
            log.info("%s: waiting for %s, which holds this run root", stage, lease.holder())
            has_logged = True
        time.sleep(min(0.1 + waited / 10, 2.0))


class _FileLease:
    """A lock on a file whose content names the holder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._stop = threading.Event()

    def acquire(self) -> bool:
        """Takes the lease if it is free."""
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
        """Whether `acquire` would succeed."""
        if not os.path.exists(self._path):
            return True
        free = self.acquire()
        if free:
            self.release()
        return free

    def has_living_holder(self) -> bool:
        """Whether the holder is known to be alive: the lock ends with its process."""
        return True

    def holder(self) -> str:
        return _holder_name(Path(self._path).read_text(errors="replace"))

    def watch(self) -> None:
        """Ends this process if the file is removed: the lock then keeps nobody out."""
        held = os.fstat(self._descriptor)
        threading.Thread(target=self._watch, args=(held,), name="lease", daemon=True).start()

    def release(self) -> None:
        self._stop.set()
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _watch(self, held: os.stat_result) -> None:
        while not self._stop.wait(LOOK):
            try:
                is_held = os.path.samestat(os.stat(self._path), held)
            except (FileNotFoundError, NotADirectoryError):
                is_held = False
            except OSError:  # a network disk that does not answer; the next look may tell
                continue
            if not is_held and not self._stop.is_set():
                _exit(UserError(f"{self._path}: was removed while this run was working there; it stops"))


class _ObjectLease:
    """An object that its holder renews and empties on release. The methods are those of `_FileLease`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._identity = {**_identity(), "owner": uuid.uuid4().hex, "beat": "0"}
        self._generation: Generation = 0
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewed_at = 0.0  # when the last renewal that succeeded was sent
        # The content and generation found last, when they were first seen, and whether they ever changed.
        self._found: tuple[str, Generation] | None = None
        self._found_at = 0.0
        self._has_changed = False

    def acquire(self) -> bool:
        if not self.is_free():
            return False
        assert self._found is not None
        sent_at = time.monotonic()
        generation = storage.write_if(self._url, json.dumps(self._identity), self._found[1])
        if generation is None:
            return False  # another process was faster
        self._generation, self._renewed_at = generation, sent_at
        return True

    def is_free(self) -> bool:
        found = storage.read_generation(self._url)
        if found != self._found:
            self._has_changed = self._found is not None
            self._found, self._found_at = found, time.monotonic()
        text = found[0]
        return not text or _is_alive(text) is False or time.monotonic() - self._found_at > EXPIRY

    def has_living_holder(self) -> bool:
        return self._has_changed or (self._found is not None and _is_alive(self._found[0]) is True)

    def holder(self) -> str:
        return _holder_name(self._found[0] if self._found is not None else "")

    def watch(self) -> None:
        """Renews the lease until it is released. Ends this process if it is lost, or before it expires."""
        self._heartbeat.start()
        # A thread of its own: a renewal may be retried for longer than the lease lasts.
        threading.Thread(target=self._expire, name="lease", daemon=True).start()

    def release(self) -> None:
        self._stop.set()
        self._heartbeat.join()
        with contextlib.suppress(StorageError):  # the lease then expires
            storage.write_if(self._url, "", self._generation)

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._identity["beat"] = str(int(self._identity["beat"]) + 1)
            sent_at = time.monotonic()
            try:
                generation = storage.write_if(self._url, json.dumps(self._identity), self._generation)
            except StorageError as error:
                log.warning("the lease could not be renewed; retrying: %s", error)
                continue
            if generation is None:
                _exit(TwhinError(f"{self._url}: another run has taken over this run root; this one stops"))
            else:
                self._generation, self._renewed_at = generation, sent_at

    def _expire(self) -> None:
        while (left := self._renewed_at + LONGEST_SILENCE * EXPIRY - time.monotonic()) > 0:
            if self._stop.wait(left):
                return
        silence = LONGEST_SILENCE * EXPIRY
        _exit(LeaseLost(f"{self._url}: could not be renewed for {silence:g} s; this run stops; run it again to resume"))


def _exit(error: TwhinError) -> None:
    """Exits at once, as if killed, before anything more is written under a root that may be another run's."""
    show_error(error)
    os._exit(error.exit_code)


def _identity() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "started": _started(os.getpid()) or "",
        "machine": _machine(),
    }


def _holder_name(text: str) -> str:
    """The holder named in the text of a lease."""
    if not text:
        return "nobody"
    identity = _read_identity(text)
    return f"process {identity['pid']} on {identity['host']}" if identity else "an unknown process"


def _is_alive(text: str) -> bool | None:
    """Whether the holder named in the text of a lease is alive.

    None if it runs on another machine or container, or if the text is damaged: such a lease expires.
    """
    if not text:
        return False
    identity = _read_identity(text)
    if identity is None or identity["machine"] != _machine():
        return None
    return _started(int(identity["pid"])) == identity["started"]


def _read_identity(text: str) -> dict[str, str] | None:
    """The holder as `_identity` describes it, or None if the text of the lease is damaged."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    fields = _identity().keys()
    is_whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in fields)
    return found if is_whole and found["pid"].isdecimal() else None


def _machine() -> str:
    """The boot and PID namespace: processes that share them can see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return uuid.uuid4().hex  # not Linux: treat every other process as remote
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it does not exist or is dead but not reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
