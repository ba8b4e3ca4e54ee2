"""Three generated days of a network that grows and changes: warm versions of a series beside cold runs.

Every day brings new users, new tweets and favs, and every taste moves a little. `twhin refresh` trains each day's
version from the one before; beside it, a run trains from nothing on all files. Prints a table and ends in one JSON
line.

    python -m benchmarks.refresh_demo [--folder DIR] [--days 3] [--users 3000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.durations import read_durations
from twhin_core.evaluation.result import read_metrics
from twhin_core.output import Cell, Column, Listing, show
from twhin_core.published import find_current

CONFIG = Path(__file__).parents[1] / "configs/series/daily.yaml"
COLD_EPOCHS = 10
TASTES = 16
"""Dimensions of a taste."""
GROWTH, SHIFT = 0.05, 0.15
"""New users and tweets a day, as a share of the first day's, and how far a taste moves a day."""
FAVS_PER_USER = 20
SEEN_AT_ONCE = 200
"""Tweets that a user looks at for each fav."""

Vectors = npt.NDArray[np.float64]


class Network:
    """Users and tweets with tastes on the unit sphere."""

    def __init__(self, users: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._first = users
        self.users, self.tweets = self._new(users), self._new(2 * users)

    def pass_day(self) -> None:
        """Adds users and tweets, and moves every user's taste."""
        moved = self.users + SHIFT * self._new(len(self.users))
        self.users = np.concatenate([_unit(moved), self._new(int(GROWTH * self._first))])
        self.tweets = np.concatenate([self.tweets, self._new(int(2 * GROWTH * self._first))])

    def write_day(self, path: Path) -> None:
        """A day's favs: of the tweets that a user sees, one near to their taste. Newer tweets are seen more often."""
        fans = self._rng.integers(len(self.users), size=FAVS_PER_USER * len(self.users))
        favs = []
        for some in np.array_split(fans, max(1, len(fans) // 10_000)):
            age = self._rng.exponential(0.5, (len(some), SEEN_AT_ONCE)).clip(max=1)
            seen = ((1 - age) * (len(self.tweets) - 1)).astype(np.int64)
            fit = (self.tweets[seen] @ self.users[some][:, :, None])[:, :, 0]
            favs.append(seen[np.arange(len(some)), (fit + self._rng.gumbel(0, 0.15, fit.shape)).argmax(1)])
        columns = {"user": [f"u{user}" for user in fans], "tweet": [f"t{tweet}" for tweet in np.concatenate(favs)]}
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def _new(self, count: int) -> Vectors:
        return _unit(self._rng.normal(size=(count, TASTES)))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def twhin(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", "from twhin.pipelines.cli import main; main()", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "TWHIN_RAW": str(folder / "raw")}, stdout=subprocess.DEVNULL)


def run_day(folder: Path, day: int, before: str | None) -> tuple[str, str]:
    """The run roots of the day's warm version and of its cold run. `before`: the cold run of the day before."""
    series, cold = str(folder / "series"), str(folder / f"cold-{day}")
    first = ["--set", f"training.num_epochs={COLD_EPOCHS}"]
    twhin(folder, "refresh", str(CONFIG), series, *(first if day == 1 else []))
    compared = ["evaluation.gates={}", "training.warm_start=null"]
    compared += [f"evaluation.previous={before}"] if before is not None else []
    sets = [part for value in compared for part in ("--set", value)]
    twhin(folder, "run", str(CONFIG), "--run-root", cold, *first, *sets)
    return find_current(series), cold


def figures(root: str) -> dict[str, Any]:
    """The MRR, the seconds of training, and how many neighbors and answers stayed since the day before."""
    metrics = read_metrics(root)
    assert metrics is not None
    drift = metrics.get("drift")
    return {
        "mrr": metrics["test"]["all"]["mrr"],
        "train_seconds": read_durations(root)["train"]["seconds"],
        "neighbors": drift["tables"]["user"]["all"]["neighbors@10"] if drift else None,
        "answers": drift["relations"]["fav"]["answers@10"] if drift else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="Keep all runs there.")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--users", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twhin-demo-") as scratch:
        folder = options.folder or Path(scratch)
        network, found, before = Network(options.users), [], None
        for day in range(1, options.days + 1):
            network.write_day(folder / "raw" / f"day-{day}.parquet")
            warm, before = run_day(folder, day, before)
            found.append({"day": day, "users": len(network.users), "warm": figures(warm), "cold": figures(before)})
            network.pass_day()
    kinds = ("warm", "cold")
    columns = [Column("day", "d"), Column("users", ",d")]
    columns += [Column(f"{kind} {name}", spec) for name, spec in (("mrr", ".4f"), ("train_seconds", ".1f"),
                ("neighbors", ".2f"), ("answers", ".2f")) for kind in kinds]  # fmt: skip
    rows: list[list[Cell]] = [
        [one["day"], one["users"], *(one[kind][name] for name in one["warm"] for kind in kinds)] for one in found
    ]
    title = "warm: a version of the series; cold: trained from nothing. neighbors, answers: kept since the day before"
    show([Listing("days", title, columns, rows)])
    print(json.dumps({"benchmark": "refresh_demo", "days": found}))


if __name__ == "__main__":
    main()
