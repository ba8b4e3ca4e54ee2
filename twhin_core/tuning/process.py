"""The training of a trial: a process of its own, with a log of its own."""

from __future__ import annotations

import multiprocessing
import os
import sys

from twhin_core import limits, storage
from twhin_core.config import file as config_file
from twhin_core.errors import TwhinError
from twhin_core.progress import show_error, show_log

LOG, ERROR = "trial.log", "trial_error.txt"


class Training:
    """A started training of the run at `root`. It ends with this process, however that ends."""

    def __init__(self, config: str, root: str, processes: int, own_log: bool) -> None:
        """
        Args:
            config: as a line, in which it can be sent.
            processes: how many share the machine's cores.
            own_log: whether to log to a file under the root, which is local then.
        """
        self._root = root
        storage.remove(storage.join(root, ERROR))
        self._process = multiprocessing.get_context("spawn").Process(
            target=_train, args=(config, root, processes, own_log), name=f"train {root}"
        )
        self._process.start()

    def is_over(self) -> bool:
        return self._process.exitcode is not None

    def error(self) -> str | None:
        """Why the training failed, or None if it has not."""
        assert self.is_over()
        if self._process.exitcode == 0:
            return None
        url = storage.join(self._root, ERROR)
        log = storage.join(self._root, LOG)
        return storage.read_text(url) if storage.exists(url) else f"exit code {self._process.exitcode}; {log} says more"

    def stop(self) -> None:
        """Ends the process at once. Its newest complete checkpoint stays."""
        self._process.kill()
        self._process.join()


def _train(config: str, root: str, processes: int, own_log: bool) -> None:
    limits.use_cores(processes)  # before torch is loaded
    if own_log:
        log = os.open(storage.filesystem(storage.join(root, LOG))[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log, stream.fileno())
    show_log()

    from twhin_core.distributed.parent import end_with_parent
    from twhin_core.stages.train import train

    end_with_parent()
    try:
        train(config_file.parse(config), root)
    except TwhinError as error:
        storage.write_text(storage.join(root, ERROR), str(error))
        show_error(error)
        sys.exit(error.exit_code)
