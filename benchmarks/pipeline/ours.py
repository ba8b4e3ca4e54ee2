"""Our way from the raw file to a checkpoint, by the stages."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.pipeline.ranks import DIM, Vectors, peak_mib
from twhin_core.checkpoints import checkpoint
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.stages.prepare import prepare
from twhin_core.stages.train import train

CONFIG = """
prepare:
  sources:
    - {path: "%(folder)s/train.tsv", columns: [lhs, rhs], relation: follow}
  memory_limit: 4GB
model:
  embeddings:
    tables:
      - name: user
        embedding_dim: %(dim)d
        optimizer:
          spherical_adagrad: {lr: 2.0}
          learning_rate:
            linear_ramp_to_cosine: {learning_rate: 2.0, final_learning_rate: 0.0, num_ramp_steps: 1}
  relations:
    - {name: follow, lhs: user, rhs: user}
  translation_optimizer: {adagrad: {lr: 0.05}}
  loss: softmax
  temperature: 0.12
training:
  num_epochs: 1
  checkpoint_every_n: 100000
train_data:
  per_replica_batch_size: 10000
  in_batch_negatives: 50
  global_negatives: 50
  logq_correction: true
"""


def run(folder: Path, options: argparse.Namespace) -> tuple[tuple[float, float], Vectors]:
    """Seconds of preparing and of training, and the vectors."""
    root = folder / "run"
    (folder / "config.yaml").write_text(CONFIG % {"folder": folder, "dim": DIM})
    config = config_file.load(str(folder / "config.yaml"), options.set)
    began = time.perf_counter()
    prepare(config, str(root))
    prepared = time.perf_counter()
    train(config, str(root))
    return (prepared - began, time.perf_counter() - prepared), vectors(config, root)


def vectors(config: Config, root: Path) -> Vectors:
    peak = peak_mib()
    found = checkpoint.newest(str(root))
    assert found is not None
    ids = pq.read_table(root / "graph/vocab/user", columns=["index", "id"]).sort_by("index")["id"]
    scorer = found.scorer(config.model, config.model.relations)
    (shift,) = scorer.parameters()
    return Vectors(ids.combine_chunks(), found.rows("user").read_whole(), shift.detach()[0], peak)
