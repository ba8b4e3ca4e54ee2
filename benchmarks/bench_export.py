"""How fast is export?

Writes one checkpoint of tables as large as asked and exports it, ids included, to a local disk. Ends in one JSON line:
rows of all tables, seconds and rows a second.

    python -m benchmarks.bench_export [--rows 500000] [--dim 64] [--batch 10000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.bench_checkpoint import make_config
from twhin_core.export.export import export
from twhin_core.training.checkpoint import Position
from twhin_core.training.checkpoint_writer import CheckpointWriter
from twhin_core.training.ranks import process_group
from twhin_core.training.train import Trainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500_000, help="of each of the two tables")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--folder", help="where the run is written; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, process_group() as ranks:
        config = make_config(options, Path(folder))
        trainer = Trainer(config, f"{folder}/run", ranks)
        with CheckpointWriter(trainer.root, trainer.description, 1, ranks) as writer:
            writer.save(trainer.model.state(), Position(step=1))
            assert writer.wait()
        started = time.perf_counter()
        manifest = export(config, trainer.root)
        seconds = time.perf_counter() - started
    rows = sum(table.rows for table in manifest.tables)
    result = {"rows": rows, "dim": options.dim, "seconds": round(seconds, 2), "rows_per_s": round(rows / seconds)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
