"""What benchmarks need of PyTorch-BigGraph: its settings, and its files. It is no dependency of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.schema import Schema

Ends = npt.NDArray[Any]


def make_config(folder: Path, schema: Schema, dim: int, epochs: int, workers: int) -> dict[str, Any]:
    """Translation and dot, softmax, Adagrad at .1, batches of 1,000, 50 + 50 negatives, as its examples."""
    relations = [
        {"name": f"r{number}", "lhs": relation.lhs, "rhs": relation.rhs, "operator": "translation"}
        for number, relation in enumerate(schema.relations)
    ]
    return {
        "entity_path": str(folder), "edge_paths": [str(folder / "edges")], "checkpoint_path": str(folder / "model"),
        "entities": {name: {"num_partitions": 1} for name in schema.tables}, "relations": relations,
        "dimension": dim, "comparator": "dot", "loss_fn": "softmax", "lr": 0.1, "num_epochs": epochs,
        "batch_size": 1000, "num_batch_negs": 50, "num_uniform_negs": 50, "workers": workers,
        "checkpoint_preservation_interval": 1, "eval_fraction": 0.0, "global_emb": False,
    }  # fmt: skip


def write_graph(folder: Path, schema: Schema, lhs: Ends, rel: Ends, rhs: Ends) -> None:
    """The graph in its format: the number of nodes of each kind, and a single bucket of edges."""
    import h5py

    (folder / "edges").mkdir(parents=True)
    for name, size in schema.tables.items():
        (folder / f"entity_count_{name}_0.txt").write_text(str(size))
    with h5py.File(folder / "edges/edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for name, ends in (("lhs", lhs), ("rel", rel), ("rhs", rhs)):
            file[name] = ends


def read_model(folder: Path, schema: Schema, epoch: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The vectors of each table after an epoch, and the translation of each relation, which is added to its rhs."""
    import h5py

    vectors = {}
    for name in schema.tables:
        with h5py.File(folder / f"model/embeddings_{name}_0.v{epoch}.h5") as file:
            vectors[name] = torch.from_numpy(file["embeddings"][...])
    with h5py.File(folder / f"model/model.v{epoch}.h5") as file:
        shifts = [
            torch.from_numpy(file[f"model/relations/{rel}/operator/rhs/translation"][...])
            for rel in range(len(schema.relations))
        ]
    return vectors, shifts
