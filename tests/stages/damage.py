"""Damages one file of a finished run at random, runs what reads it next, and says how that ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twhin_core import storage
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.embeddings import Embeddings
from twhin_core.errors import TwhinError
from twhin_core.evaluation.paired import compare as compare_runs
from twhin_core.evaluation.result import read_metrics
from twhin_core.graph.manifest import read_manifest
from twhin_core.progress import log
from twhin_core.report import trained, training
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.export import export
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train
from twhin_core.stages.verify import verify

METRICS = "evaluation/metrics.json"
KINDS = ("bit", "cut", "zeros", "rubbish", "missing")
MOST_BYTES = 4096
"""The longest range of zeros or rubbish. Shorter ones are as likely at every scale."""

# What no stage reads again: copies, pages, locks, raw data, and events whose checksums TensorBoard keeps.
UNREAD = ("raw/", ".leases/", "evaluation/report.html", "training/events")

ABSENT = ("training/finished.json", METRICS, "durations/")
"""What says that a stage has finished or worked."""

HARMLESS, REFUSED, SAID, SILENT, TRACEBACK = "harmless", "refused in one line", "said", "SILENT", "TRACEBACK"
"""The result is the same; an error of one line; the result differs, and a warning says so; the result differs."""


@dataclass(frozen=True)
class Outcome:
    path: str
    kind: str
    stage: str
    ended: str
    detail: str
    found: bool
    """Whether `verify` found the damage."""


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def finish(config: Config, root: Path) -> None:
    """A run with every kind of file."""
    for stage in (prepare, train, evaluate, export):
        stage(config, str(root))


def _weights(root: str) -> Any:
    newest = checkpoint.newest(root)
    assert newest is not None
    names = [*(f"tables.embeddings.{table}.weight" for table in ("user", "tweet")), "scorer.operator.translation"]
    from twhin_core.checkpoints.stored_tensor import StoredTensor

    return newest.step, [StoredTensor(newest.url, name, newest.marker.files).read_whole().numpy() for name in names]


def train_anew(config: Config, root: str) -> Any:
    for folder in ("checkpoints", "training"):
        shutil.rmtree(f"{root}/{folder}")
    train(config, root)
    return _weights(root)


def resume(config: Config, root: str) -> Any:
    """The last steps, from the newest checkpoint but one if there are two, and the section of the report on them."""
    complete = [int(name) for name in storage.list_folders(f"{root}/checkpoints")]
    if len(complete) > 1:
        shutil.rmtree(f"{root}/checkpoints/{max(complete)}")
    train(config, root)
    url = storage.join(root, training.LOG)
    from twhin_core.checksum import unseal_lines

    losses = [(line["step"], line["loss"]) for line in unseal_lines(storage.read_bytes(url), url) if "loss" in line]
    return _weights(root), losses


def look(config: Config, root: str) -> Any:
    """What the report shows of training, if it is drawn."""
    metrics = read_metrics(root)
    return metrics and (training.panels(config, root), trained.collect(metrics, config, root))


def measure(config: Config, root: str) -> Any:
    storage.remove(f"{root}/{METRICS}")
    return evaluate(config, root)


def judge(config: Config, root: str) -> Any:
    return evaluate(config, root), storage.read_json(f"{root}/evaluation/gates.json")


def write_out(config: Config, root: str) -> Any:
    storage.remove(f"{root}/embeddings/manifest.json")
    shutil.rmtree(f"{root}/embeddings/.finished")
    return export(config, root).model_dump(exclude={"formats": {"faiss"}})


def write_rest(config: Config, root: str) -> Any:
    """Export after one that was interrupted at its end."""
    storage.remove(f"{root}/embeddings/manifest.json")
    return export(config, root).model_dump(exclude={"formats": {"faiss"}})


def ask(config: Config, root: str) -> Any:
    embeddings = Embeddings.load(root)
    users = embeddings["user"]
    vectors = [pa.Table.from_batches(table.batches()).to_pydict() for table in embeddings.values()]
    near = [users.neighbors("u3"), users.neighbors("u3", "fav"), users.neighbors("u3", "fav", index=True)]
    return vectors, near, embeddings.score("follow", "u1", "u2"), read_manifest(root)


def ask_checkpoint(config: Config, root: str) -> Any:
    shutil.rmtree(f"{root}/embeddings")
    users = Embeddings.load(root)["user"]
    return list(users), users.neighbors("u3", "fav"), users["u5"]


def label(config: Config, root: str) -> Any:
    found = Embeddings.load(root)
    return found.labels("tweet", list(found["tweet"]))


def ask_export(config: Config, root: str) -> Any:
    shutil.rmtree(f"{root}/checkpoints")
    return ask(config, root)


Stage = Callable[[Config, str], Any]


def compare(config: Config, root: str) -> Any:
    """A comparison with another run reads this one."""
    return compare_runs(root, root, config.evaluation.split)


NEXT: dict[str, tuple[Stage, ...]] = {
    "config.yaml": (ask, train_anew),
    "graph/manifest.json": (train_anew, measure, ask, write_out),
    "graph/vocab": (write_out, ask_checkpoint),
    "graph/labels": (label,),
    "graph/edges/train": (train_anew, measure),
    "graph/edges/validation": (train_anew, measure),
    "graph/edges/test": (measure,),
    "graph/rejected": (ask,),
    "checkpoints": (resume, measure, write_out, ask_checkpoint),
    "training": (resume, look),
    "evaluation": (judge, write_rest, look, compare),
    "durations": (resume, look),
    "embeddings": (ask, ask_export, write_rest),
}
"""What reads the files below each path."""


def harm(path: Path, kind: str, rng: np.random.Generator) -> bool:
    """Damages a file. Returns whether that changed it."""
    before = path.read_bytes()
    if kind == "missing":
        path.unlink()
        return True
    content = bytearray(before)
    at = int(rng.integers(len(before)))
    size = int(MOST_BYTES ** rng.random())
    if kind == "bit":
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del content[at:]
    else:
        part = len(content[at : at + size])
        content[at : at + size] = bytes(part) if kind == "zeros" else rng.bytes(part)
    path.write_bytes(content)
    return bytes(content) != before


def files_of(root: Path) -> list[str]:
    """The files that something reads, relative to the run root."""
    paths = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
    return [path for path in paths if not path.startswith(UNREAD) and (root / path).stat().st_size]


def prefix_of(path: str) -> str:
    (prefix,) = (prefix for prefix in NEXT if path == prefix or path.startswith(prefix + "/"))
    return prefix


class Campaign:
    """Damages copies of one run."""

    def __init__(self, config: Config, root: Path, folder: Path) -> None:
        self.config, self.root, self.folder = config, root, folder
        self.files: dict[str, list[str]] = {}
        for path in files_of(root):
            self.files.setdefault(prefix_of(path), []).append(path)
        assert self.files.keys() == NEXT.keys(), "each path is that of files of the run"
        stages = {stage for of in NEXT.values() for stage in of}
        self.expected = {stage: self._run(stage, self._copy()) for stage in stages}

    def _copy(self) -> Path:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy)
        return copy

    def _run(self, stage: Stage, root: Path) -> str:
        """The result of a stage as text, without the root's name."""
        with np.printoptions(threshold=10**9, floatmode="unique"):
            return repr(stage(self.config, str(root)))

    def one(self, rng: np.random.Generator) -> Outcome:
        """Every kind of file is as likely as any other, whatever their number."""
        while True:
            prefix = list(NEXT)[int(rng.integers(len(NEXT)))]
            path = self.files[prefix][int(rng.integers(len(self.files[prefix])))]
            kind, stage = KINDS[int(rng.integers(len(KINDS)))], NEXT[prefix][int(rng.integers(len(NEXT[prefix])))]
            copy = self._copy()
            # Without these, a stage has not finished or not worked, and the report does not say that it has.
            is_absent = kind == "missing" and stage is look and path.startswith(ABSENT)
            if not is_absent and harm(copy / path, kind, rng):
                break
        found = _is_found(copy)
        warnings = Warnings()
        log.addHandler(warnings)
        try:
            result = self._run(stage, copy)
        except TwhinError as error:
            ended, detail = (TRACEBACK if "\n" in str(error) else REFUSED), str(error)
        except Exception as error:  # noqa: BLE001 -- what the campaign counts
            ended, detail = TRACEBACK, f"{type(error).__name__}: {error}"
        else:
            same = result == self.expected[stage]
            ended = HARMLESS if same else SAID if warnings.lines else SILENT
            detail = "; ".join(warnings.lines)
        finally:
            log.removeHandler(warnings)
        return Outcome(path, kind, stage.__name__, ended, detail.replace(str(copy), "RUN"), found)


def _is_found(root: Path) -> bool:
    try:
        return any(part.faults for part in verify(str(root)))
    except TwhinError:  # there is no config.yaml
        return True
