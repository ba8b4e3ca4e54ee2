"""A heartbeat under a run root, by which machines know that the task that started them lives.

A task that is killed hard cannot stop the machines that it started. They therefore watch an object that the task keeps
changing, and end by themselves, after a last checkpoint, once it has not changed for as long as they were told. Each
machine goes by its own clock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

from twhin_core import lease, storage
from twhin_core.errors import Preempted, StorageError
from twhin_core.progress import log, show_error

FILE = "follower"
"""Beside the leases."""
BEAT_S = 20.0
"""Between two changes, and at most between two looks."""
JOIN_S = 5.0
"""For the last change, which an object store may keep waiting for longer."""
GRACE_S = 600.0
"""For the last checkpoint, as the pods have after SIGTERM."""
ABANDONED_AFTER = "TWHIN_ABANDONED_AFTER"
"""Environment variable of a machine: the seconds without a change after which it ends."""


@contextlib.contextmanager
def beating(root: str) -> Iterator[None]:
    """Keeps the heartbeat of `root` going while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(_url(root), stop), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_S)


def end_if_abandoned(root: str, environment: Mapping[str, str] = os.environ) -> None:
    """Watches the heartbeat of `root` in the background, if the environment asks for it.

    Once it has stopped, this process gets SIGTERM, and ends without further ado if it is still there after `GRACE_S`.
    """
    if ABANDONED_AFTER in environment:
        watch = threading.Thread(
            target=_watch, args=(_url(root), float(environment[ABANDONED_AFTER])), name="heartbeat", daemon=True
        )
        watch.start()


def _url(root: str) -> str:
    return storage.join(root, lease.FOLDER, FILE)


def _beat(url: str, stop: threading.Event) -> None:
    identity, count = uuid.uuid4().hex, 0
    while True:
        try:
            storage.write_text(url, f"{identity} {count}\n")
        except StorageError as error:
            log.warning("the heartbeat could not be written; trying again: %s", error)
        count += 1
        if stop.wait(BEAT_S):
            return


def _watch(url: str, longest_silence: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # they are for the main thread
    seen, changed_at = "", time.monotonic()
    while time.monotonic() - changed_at <= longest_silence:
        time.sleep(min(BEAT_S, longest_silence / 5))
        try:
            found = storage.read_text(url)
        except FileNotFoundError:
            continue
        except StorageError as error:
            # Nobody can tell, the task least of all: its heartbeats cannot be written either.
            log.warning("the heartbeat cannot be read; trying again: %s", error)
            changed_at = time.monotonic()
            continue
        if found != seen:
            seen, changed_at = found, time.monotonic()
    log.warning("%s: no heartbeat for %g s: the task that started this machine is gone; it ends", url, longest_silence)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    show_error(Preempted(f"still there {GRACE_S:g} s after SIGTERM; killed; run it again to resume"))
    os._exit(Preempted.exit_code)
