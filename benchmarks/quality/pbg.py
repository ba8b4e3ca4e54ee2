"""PyTorch-BigGraph at the settings of its examples, an epoch at a time; it is no dependency of ours."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.graph import Graph, Point, Scores
from twhin_core.schema import Side

TRAINED = re.compile(r"Processed \d+ edges in ([\d.]+) s")


def train(graph: Graph, dim: int, epochs: int) -> Iterator[Point]:
    """Translation and dot, softmax, Adagrad at .1, batches of 1,000, 50 + 50 negatives; the best after each epoch.

    Seconds are those that its own log states for training, without reading and writing.
    """
    import h5py
    from torchbiggraph.config import parse_config
    from torchbiggraph.train import train as train_it

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(make_config(graph, dim, epochs, folder))
        write(graph, folder, h5py)
        seconds, its_log = Seconds(), logging.getLogger("torchbiggraph")
        its_log.handlers, its_log.propagate = [seconds], False
        its_log.setLevel(logging.INFO)
        train_it(config)
        for epoch in range(1, epochs + 1):
            yield sum(seconds.found[:epoch]), float(epoch), scores_of(graph, Path(folder, "model"), epoch, h5py)


class Seconds(logging.Handler):
    """Collects the seconds of each epoch from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if match := TRAINED.search(record.getMessage()):
            self.found.append(float(match[1]))


def make_config(graph: Graph, dim: int, epochs: int, folder: str) -> dict[str, Any]:
    relations = [
        {"name": f"r{number}", "lhs": relation.lhs, "rhs": relation.rhs, "operator": "translation"}
        for number, relation in enumerate(graph.schema.relations)
    ]
    return {
        "entity_path": folder, "edge_paths": [f"{folder}/edges"], "checkpoint_path": f"{folder}/model",
        "entities": {name: {"num_partitions": 1} for name in graph.schema.tables}, "relations": relations,
        "dimension": dim, "comparator": "dot", "loss_fn": "softmax", "lr": 0.1, "num_epochs": epochs,
        "batch_size": 1000, "num_batch_negs": 50, "num_uniform_negs": 50, "workers": torch.get_num_threads(),
        "checkpoint_preservation_interval": 1, "eval_fraction": 0.0, "global_emb": False,
    }  # fmt: skip


def write(graph: Graph, folder: str, h5py: Any) -> None:
    """The graph in its format: a bucket of edges and the number of nodes of each kind."""
    Path(folder, "edges").mkdir()
    for name, size in graph.schema.tables.items():
        Path(folder, f"entity_count_{name}_0.txt").write_text(str(size))
    order = np.random.default_rng(0).permutation(len(graph.train))
    with h5py.File(f"{folder}/edges/edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for name in ("lhs", "rhs", "rel"):
            file[name] = getattr(graph.train, name)[order]


def scores_of(graph: Graph, model: Path, epoch: int, h5py: Any) -> Scores:
    tables = {}
    for name in graph.schema.tables:
        with h5py.File(model / f"embeddings_{name}_0.v{epoch}.h5") as file:
            tables[name] = torch.from_numpy(file["embeddings"][...])
    with h5py.File(model / f"model.v{epoch}.h5") as file:
        shifts = [
            torch.from_numpy(file[f"model/relations/{rel}/operator/rhs/translation"][...])
            for rel in range(len(graph.schema.relations))
        ]

    def scores(side: Side, rel: int, node: Tensor) -> Tensor:
        lhs, rhs = (tables[graph.schema.table_of(rel, of)] for of in ("lhs", "rhs"))
        if side == "rhs":
            return lhs[node] @ (rhs + shifts[rel]).T
        return (rhs[node] + shifts[rel]) @ lhs.T

    return scores
