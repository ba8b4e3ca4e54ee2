"""Brings one tracker up to date with a run root."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.errors import StorageError, Unreachable
from twhin_core.progress import log
from twhin_core.scratch import scratch
from twhin_core.tracking.sent import Sent, read_sent, write_sent
from twhin_core.tracking.tracker import Gone, Point, Refused, Tracker


class About(NamedTuple):
    """What a tracker is told of a run before its figures."""

    title: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    """The config, flattened."""


class Results(NamedTuple):
    """What the stages have left under the run root so far."""

    step: int
    figures: Mapping[str, float]
    """By the names that gates give them; empty before evaluation."""
    files: Mapping[str, str]
    """URLs by name."""


NOTHING = Results(0, {}, {})


class Session:
    """The tracker's part of a stage: curves while it works, results at its end.

    A tracker that cannot be reached costs one warning, and what it missed is sent as soon as it answers: by this stage,
    or by the next one of the run. Calls may come from two threads.
    """

    def __init__(self, tracker: Tracker, root: str, about: About) -> None:
        self._tracker, self._root, self._about = tracker, root, about
        self._sent: Sent | None = None
        """None until the tracker has answered."""
        self._points: list[Point] = []
        self._has_warned = self._is_finished = False
        self._sending = threading.Lock()
        self._adding = threading.Lock()

    def start(self, points: Iterable[Point]) -> None:
        """Makes the first contact.

        Args:
            points: of earlier calls of the run, in the order of their steps.

        Raises:
            Refused: the tracker answers that the config is wrong.
        """
        self._points = list(points)
        with self._sending:
            try:
                self._connect()
                self._send_points(is_whole=False)
            except Unreachable as error:
                self._warn(error)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        with self._adding:
            self._points.append(Point(step, time.time(), figures))

    def send(self) -> bool:
        """Sends the points of all steps but the newest, which may not have all its figures yet.

        Returns whether the tracker took them.
        """
        with self._sending:
            return self._try(lambda: self._send_points(is_whole=False))

    def finish(self, results: Results, how: str) -> None:
        """Sends everything that is left, and how the stage ended."""
        with self._sending:
            self._is_finished = self._try(lambda: self._send_results(results, how))

    def give_up(self, seconds: float) -> None:
        """Says what is missing if `finish`, in another thread, has not ended for so long."""
        if not self._is_finished:
            self._warn(Unreachable(f"it did not take the end of the stage within {seconds:g} s"))

    def _send_results(self, results: Results, how: str) -> None:
        self._send_points(is_whole=True)
        self._send_figures(results)
        self._send_files(results.files)
        self._tracker.end(how)

    def _connect(self) -> Sent:
        if self._sent is None:
            tracker = self._tracker
            sent = read_sent(self._root, tracker.name)
            if sent is not None and sent.place == tracker.place:
                try:
                    tracker.resume(sent.run)
                except Gone:
                    sent = None
            else:
                sent = None
            if sent is None:
                sent = Sent(place=tracker.place, run=tracker.create(self._about.title, self._about.tags))
                write_sent(self._root, tracker.name, sent)
                log.info("tracking.%s: run %s at %s", tracker.name, sent.run, tracker.place)
            self._send_parameters(sent)
            self._sent = sent
        return self._sent

    def _send_parameters(self, sent: Sent) -> None:
        given = self._about.parameters
        known = sent.parameters | sent.changed
        new = {name: value for name, value in given.items() if name not in known}
        changed = {name: value for name, value in given.items() if name in known and known[name] != value}
        if new or changed:
            self._tracker.set_parameters(new, changed)
            sent.parameters |= new
            sent.changed |= changed
            write_sent(self._root, self._tracker.name, sent)

    def _send_points(self, is_whole: bool) -> None:
        sent = self._connect()
        with self._adding:
            points = list(self._points)
        if not points:
            return
        newest = points[-1].step
        due = [point for point in points if is_whole or point.step < newest]
        if unsent := [point for point in due if point.step > sent.step]:
            self._tracker.add_points(unsent)
            sent.step = unsent[-1].step
            write_sent(self._root, self._tracker.name, sent)
        with self._adding:
            del self._points[: len(due)]

    def _send_figures(self, results: Results) -> None:
        sent = self._connect()
        checksum = crc32c([repr((results.step, sorted(results.figures.items()))).encode()])
        if results.figures and checksum != sent.figures:
            self._tracker.set_figures(results.step, results.figures)
            sent.figures = checksum
            write_sent(self._root, self._tracker.name, sent)

    def _send_files(self, files: Mapping[str, str]) -> None:
        sent = self._connect()
        with scratch("tracking") as folder:
            for name, url in files.items():
                content = storage.read_bytes(url)
                checksum = crc32c([content])
                if sent.files.get(name) == checksum:
                    continue
                (folder / name).write_bytes(content)
                self._tracker.add_file(folder / name)
                sent.files[name] = checksum
                write_sent(self._root, self._tracker.name, sent)

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except (Unreachable, Refused, StorageError) as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "tracking.%s: not up to date: %s; later attempts send what is missing", self._tracker.name, error
            )
