"""Do quality, neighbors and models fitted to yesterday's vectors last over generated days?

Trains a version a day of the network of `refresh_demo`, each from the one before, once per anchor; beside it, from
nothing, the last two days. The last version is compared with that from nothing, query by query. Drift is from the day
before; that of versions from nothing is measured after a rotation too (`export.align`).

    python -m benchmarks.bench_days [--days 7] [--users 1500] [--anchors 0 0.03] [--folder DIR]
        [--set section.key=value ...]

`--set` changes the warm versions after the first day. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.refresh_demo import COLD_EPOCHS, CONFIG, Network
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.evaluation.paired import compare
from twhin_core.series.continued import with_previous
from twhin_core.stages.evaluate import evaluate
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train


class Days:
    """The raw files of all days, and the configs of versions that take the first of them."""

    def __init__(self, folder: Path, days: int, users: int) -> None:
        self.folder, network = folder, Network(users)
        self._files = [str(folder / "raw" / f"day-{day}.parquet") for day in range(1, days + 1)]
        for file in self._files if not Path(self._files[-1]).exists() else []:
            network.write_day(Path(file))
            network.pass_day()

    def config(self, day: int, previous: str | None, overrides: list[str]) -> Config:
        tree = config_file.read_tree(
            CONFIG.read_text().replace("${TWHIN_RAW}", str(self.folder / "raw")), str(CONFIG), tuple(overrides)
        )
        (source,) = tree["prepare"]["sources"]
        tree["prepare"]["sources"] = [{**source, "path": file} for file in self._files[:day]]
        tree["evaluation"].pop("gates", None)
        return with_previous(tree, previous, str(CONFIG))


def version(config: Config, root: str) -> dict[str, Any]:
    """Makes a version. Its MRR, the interval of the MRR, and the drift from the version before."""
    prepare(config, root)
    train(config, root)
    return figures(config, root)


def figures(config: Config, root: str) -> dict[str, Any]:
    metrics = evaluate(config, root)
    found: dict[str, Any] = {"mrr": round(metrics["test"]["all"]["mrr"], 4)}
    found["interval"] = [round(bound, 4) for bound in metrics["intervals"]["all"]["mrr"]]
    for table, of in metrics.get("drift", {}).get("tables", {}).items():
        found[table] = {name: round(of["all"][name], 3) for name in ("cosine", "neighbors@10")}
    for of in metrics.get("drift", {}).get("relations", {}).values():
        found |= {name: round(of[name], 4) for name in ("answers@10", "auc_before", "auc_now", "auc_kept")}
    return found


def show(name: str, day: int, found: dict[str, Any]) -> dict[str, Any]:
    print(f"{name:<20} day {day}", found, flush=True)
    return found


def from_nothing(days: Days, day: int, before: str | None) -> tuple[str, dict[str, Any]]:
    """A version that takes all files at once, trained from nothing; compared with `before`."""
    overrides = [f"training.num_epochs={COLD_EPOCHS}", "training.warm_start=null", f"training.seed={day}"]
    root, config = str(days.folder / f"cold-{day}"), days.config(day, None, overrides)
    found = {"": version(config, root)}
    for name, align in (("as learned", None), ("rotated", before)) if before is not None else ():
        tree = config.model_dump(mode="json", exclude_unset=True)
        tree["evaluation"]["previous"], tree["export"] = before, {"align": align}
        found[name] = figures(config_file.validate(Config, tree, name), root)
    for name, of in found.items():
        show(f"cold {name}", day, of)
    return root, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--anchors", type=float, nargs="*", default=[0.0])
    parser.add_argument("--folder", help="keep the runs here, and go on with those that are there")
    parser.add_argument("--name", default="warm", help="of the warm versions")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        days = Days(Path(options.folder or temporary), options.days, options.users)
        last = options.days
        cold_before, _ = from_nothing(days, last - 1, None)
        cold, found = from_nothing(days, last, cold_before)
        results: dict[str, Any] = {"cold": found}
        first = str(days.folder / "day-1")
        results["day 1"] = show(
            "first", 1, version(days.config(1, None, [f"training.num_epochs={COLD_EPOCHS}"]), first)
        )
        for weight in options.anchors:
            name, root = f"{options.name}, anchor {weight:g}" if weight else options.name, first
            anchor = [f"training.anchor={{to: previous, weight: {weight}}}"] if weight else []
            results[name] = {}
            for day in range(2, last + 1):
                before, root = root, str(days.folder / name / str(day))
                config = days.config(day, before, [*anchor, *options.set])
                results[name][day] = show(name, day, version(config, root))
            found = compare(cold, root)
            above = found.second["all"]["mrr"] - found.first["all"]["mrr"], *found.differences["all"]["mrr"]
            results[name]["mrr above cold"] = [round(value, 4) for value in above]
            print(f"{name:<20} MRR above cold: {results[name]['mrr above cold']}", flush=True)
        print(json.dumps({"benchmark": "days", "days": last, "users": options.users, "results": results}))


if __name__ == "__main__":
    main()
