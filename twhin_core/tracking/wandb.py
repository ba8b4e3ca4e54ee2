"""Runs in Weights & Biases, online or, with `WANDB_MODE=offline`, in a folder that `wandb sync` sends later."""

from __future__ import annotations

import contextlib
import json
import netrc
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twhin_core import storage
from twhin_core.errors import Unreachable, UserError, one_line
from twhin_core.tracking.tracker import FINISHED, TRAINING, Point, Refused

SECONDS = 20
"""To wait for the server at the start and at the end of a stage. What is left then stays in the folder."""
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class Wandb:
    """A run of a project. The client keeps what it is given in a folder and sends it from a process of its own."""

    name = "wandb"

    def __init__(self, project: str, root: str) -> None:
        """Raises UserError if the client is not installed, finds no key, or has no folder to keep offline runs in."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the makers of the client
        os.environ.setdefault("WANDB_SILENT", "true")  # before there are settings, it would say that it logs in
        try:
            import wandb as library
        except ImportError as error:
            raise UserError(f"tracking.wandb: needs wandb ({one_line(error)}): pip install 'twhin[wandb]'") from error
        self._library: Any = library
        self._entity, _, self._project = project.rpartition("/")
        is_offline = os.environ.get("WANDB_MODE") == "offline"
        self._folder = os.environ.get("WANDB_DIR")
        if self._folder is None and not storage.is_remote(root):
            self._folder = storage.filesystem(storage.join(root, "tracking"))[1]
        if is_offline and self._folder is None:
            raise UserError(
                f"tracking.wandb: an offline run needs a local folder, and {root} is remote; set WANDB_DIR, "
                "or track it online"
            )
        if not is_offline and not _has_key():
            raise UserError("tracking.wandb: there is no key; set WANDB_API_KEY, or WANDB_MODE=offline")
        self.place = f"{project} (offline)" if is_offline else project
        self._run: Any = None

    def create(self, title: str, tags: Mapping[str, str]) -> str:
        run = secrets.token_hex(4)
        self._open(run, title)
        self._run.config.update(dict(tags))
        return run

    def resume(self, run: str) -> None:
        self._open(run, None)

    def set_parameters(self, new: Mapping[str, str], changed: Mapping[str, str]) -> None:
        """Numbers and lists become such again, so that runs can be plotted by them."""
        values = {name: _value(text) for name, text in {**new, **changed}.items()}
        with self._asking():
            self._run.config.update(values, allow_val_change=True)

    def add_points(self, points: Sequence[Point]) -> None:
        with self._asking():
            for point in points:
                figures = {TRAINING + name: value for name, value in point.figures.items()}
                self._run.log({"_timestamp": point.time, **figures}, step=point.step)

    def set_figures(self, step: int, figures: Mapping[str, float]) -> None:
        with self._asking():
            self._run.summary.update({"evaluated_step": step, **figures})

    def add_file(self, path: Path) -> None:
        with self._asking():
            copy = shutil.copy(path, self._run.dir)
            self._run.save(copy, base_path=self._run.dir, policy="now")

    def end(self, how: str) -> None:
        with self._asking():
            self._run.finish(exit_code=0 if how == FINISHED else 1)

    def _open(self, run: str, title: str | None) -> None:
        if self._folder is not None:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        with self._asking():
            self._run = self._library.init(
                project=self._project, entity=self._entity or None, id=run, name=title, dir=self._folder,
                resume="allow",
                settings=self._library.Settings(
                    silent=True, console="off", save_code=False, x_disable_stats=True, init_timeout=SECONDS,
                    finish_timeout=SECONDS,
                ),
            )  # fmt: skip

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns errors of the client into ours."""
        errors = self._library.errors
        try:
            yield
        except (errors.AuthenticationError, errors.UsageError) as error:
            raise Refused(f"tracking.wandb: {one_line(error)}") from None
        except (errors.Error, OSError) as error:
            raise Unreachable(f"Weights & Biases: {one_line(error)}") from None


def _has_key() -> bool:
    """Whether the client can log in without asking at the terminal."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        saved = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        saved = None
    return saved is not None or any(os.environ.get(name) for name in KEYS)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
