"""TensorBoard's event files, next to `training/metrics.jsonl`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twhin_core import storage
from twhin_core.progress import log

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventFiles:
    """Writes a new event file per start of a run; TensorBoard shows the files of a folder as one run."""

    def __init__(self, root: str, step: int) -> None:
        """`step`: where the run resumes; TensorBoard hides what earlier files have of later steps."""
        self._url = storage.join(root, "training")
        # For an object store, the file is written locally and copied on each flush.
        self._aside = tempfile.TemporaryDirectory(prefix="twhin-") if storage.is_remote(root) else None
        self._purge_step = step + 1 if step else None
        self._writer: SummaryWriter | None = None
        self._failed = False

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        def scalars() -> None:
            if self._writer is None:
                # Imported here because it is slow and only the first rank needs it.
                from torch.utils.tensorboard import SummaryWriter

                folder = storage.filesystem(self._url)[1] if self._aside is None else self._aside.name
                self._writer = SummaryWriter(folder, purge_step=self._purge_step)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

        self._try_to(scalars)

    def flush(self) -> None:
        if self._writer is not None:
            self._try_to(self._writer.flush)
            self._try_to(self._copy)

    def close(self) -> None:
        if self._writer is not None:
            self._try_to(self._writer.close)
            self._try_to(self._copy)
        if self._aside is not None:
            self._aside.cleanup()

    def _copy(self) -> None:
        if self._aside is not None:
            for file in Path(self._aside.name).iterdir():
                with storage.open_write(storage.join(self._url, file.name)) as copy:
                    copy.write(file.read_bytes())

    def _try_to(self, act: Callable[[], None]) -> None:
        """A full disk ends the event files, not the run; `metrics.jsonl` has the same figures."""
        if self._failed:
            return
        try:
            act()
        except OSError as error:
            log.error("train: TensorBoard events are no longer written: %s", error)
            self._failed = True
