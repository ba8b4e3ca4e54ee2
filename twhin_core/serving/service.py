"""The version that is served, and how another takes its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from twhin_core.errors import TwhinError
from twhin_core.progress import log
from twhin_core.published import Current, read_current
from twhin_core.serving.batching import Batcher
from twhin_core.serving.metrics import Metrics
from twhin_core.serving.version import Found, Node, Question, Version, load

LONGEST_PAUSE = 64
"""In intervals: between attempts to load a version that is broken, which double."""


class Running:
    """A version, and the requests that it answers."""

    def __init__(self, version: Version, searches: ThreadPoolExecutor, metrics: Metrics) -> None:
        self.version = version
        self.batcher: Batcher[Question, Node, Found] = Batcher(version.search, searches, metrics.queries.observe)
        self.requests = 0
        self.is_replaced = False


class Service:
    """Everything but HTTP. Lives in one event loop."""

    def __init__(self, version: Version, metrics: Metrics) -> None:
        self.metrics = metrics
        # One search at a time: each uses all cores, and those that wait meanwhile are joined.
        self._searches = ThreadPoolExecutor(1, "search")
        self.work = ThreadPoolExecutor(1, "work")
        """For what takes long and is rare: folding in, known edges read on demand, suggestions for a typo."""
        self.rules = ThreadPoolExecutor(1, "rules")
        """For business rules, which need not be safe to call from several threads."""
        self._running = Running(version, self._searches, metrics)
        metrics.serves(version.name, version.step)

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        """The version that is served now, which is kept until the block ends even if another is served by then."""
        running = self._running
        running.requests += 1
        try:
            yield running
        finally:
            running.requests -= 1
            self._close_unused(running)

    def replace(self, version: Version) -> None:
        """Serves `version` from the next request on."""
        before, self._running = self._running, Running(version, self._searches, self.metrics)
        before.is_replaced = True
        self.metrics.serves(version.name, version.step)
        self._close_unused(before)

    def _close_unused(self, running: Running) -> None:
        if running.is_replaced and not running.requests:
            asyncio.get_running_loop().run_in_executor(None, running.version.close)  # may ask an object store

    def close(self) -> None:
        for pool in (self._searches, self.work, self.rules):
            pool.shutdown(cancel_futures=True)
        self._running.version.close()


async def follow(service: Service, series: str, published: Current | None, interval: float) -> None:
    """Looks every `interval` seconds whether another version is published, and serves it once it is loaded.

    A version that cannot be loaded leaves the one before in place; it is tried again, after longer and longer pauses.

    Args:
        published: as read before the version that is served was loaded.
    """
    failures, metrics = 0, service.metrics
    while True:
        await asyncio.sleep(interval * min(2**failures, LONGEST_PAUSE))
        try:
            current = await asyncio.to_thread(read_current, series)
            if current is None or current == published:
                failures = 0
                continue
            version = await asyncio.to_thread(load, series)
        except (TwhinError, OSError) as error:
            failures += 1
            metrics.reloads.labels("failed").inc()
            log.warning("serve: another version cannot be served, the one before still is: %s", error)
            continue
        failures, published = 0, current
        service.replace(version)
        metrics.reloads.labels("done").inc()
        log.info("serve: version %s, step %s", version.name, f"{version.step:,}")
