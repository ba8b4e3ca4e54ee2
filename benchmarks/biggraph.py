"""What benchmarks need of PyTorch-BigGraph: its settings, and its files. It is no dependency of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from twhin_core.schema import SIDES, Schema, Side

Ends = npt.NDArray[Any]


def make_config(
    folder: Path, schema: Schema, dim: int, epochs: int, workers: int, negatives: tuple[int, int] = (50, 50)
) -> dict[str, Any]:
    """Translation and dot, softmax, Adagrad at .1, batches of 1,000; `negatives`: in the batch, and uniform ones.

    Several relations between the same tables are dynamic: batches mix them, and each has an operator per side.
    """
    in_batch, uniform = negatives
    relations = [
        {"name": f"r{number}", "lhs": relation.lhs, "rhs": relation.rhs, "operator": "translation"}
        for number, relation in enumerate(schema.relations)
    ]
    if is_dynamic(schema):
        del relations[1:]
    return {
        "entity_path": str(folder), "edge_paths": [str(folder / "edges")], "checkpoint_path": str(folder / "model"),
        "entities": {name: {"num_partitions": 1} for name in schema.tables}, "relations": relations,
        "dimension": dim, "comparator": "dot", "loss_fn": "softmax", "lr": 0.1, "num_epochs": epochs,
        "batch_size": 1000, "num_batch_negs": in_batch, "num_uniform_negs": uniform, "workers": workers,
        "checkpoint_preservation_interval": 1, "eval_fraction": 0.0, "global_emb": False,
        "dynamic_relations": is_dynamic(schema),
    }  # fmt: skip


def is_dynamic(schema: Schema) -> bool:
    """Whether there are several relations, all between the same two tables."""
    return len(schema.relations) > 1 and len({(of.lhs, of.rhs) for of in schema.relations}) == 1


def write_graph(folder: Path, schema: Schema, lhs: Ends, rel: Ends, rhs: Ends) -> None:
    """The graph in its format: the number of nodes of each kind, and a single bucket of edges."""
    import h5py

    (folder / "edges").mkdir(parents=True)
    for name, size in schema.tables.items():
        (folder / f"entity_count_{name}_0.txt").write_text(str(size))
    if is_dynamic(schema):
        (folder / "dynamic_rel_count.txt").write_text(str(len(schema.relations)))
    with h5py.File(folder / "edges/edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for name, ends in (("lhs", lhs), ("rel", rel), ("rhs", rhs)):
            file[name] = ends


def read_model(folder: Path, schema: Schema, epoch: int) -> tuple[dict[str, Tensor], dict[Side, Tensor]]:
    """The vectors of each table after an epoch, and the translations [relations, dim] that are added to each side.

    Queries for the rhs add that of the lhs to it, and queries for the lhs add that of the rhs; there is only one for
    the rhs unless relations are dynamic, and both kinds of queries then use it.
    """
    import h5py

    vectors = {}
    for name in schema.tables:
        with h5py.File(folder / f"model/embeddings_{name}_0.v{epoch}.h5") as file:
            vectors[name] = torch.from_numpy(file["embeddings"][...])
    with h5py.File(folder / f"model/model.v{epoch}.h5") as file:
        of = file["model/relations"]
        if is_dynamic(schema):
            return vectors, {side: torch.from_numpy(of[f"0/operator/{side}/translations"][...]) for side in SIDES}
        shifts = [torch.from_numpy(of[f"{rel}/operator/rhs/translation"][...]) for rel in range(len(schema.relations))]
    return vectors, {"rhs": torch.stack(shifts)}
