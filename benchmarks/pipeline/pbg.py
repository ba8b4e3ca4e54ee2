"""PyTorch-BigGraph's way from the raw file to a checkpoint, by its own importer and trainer; no dependency of ours.

Its importer takes tens of microseconds per edge: it is timed on a part of the file, and its time for the whole is
extrapolated. What it would have written is then written for it, untimed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv

from benchmarks.pipeline.ranks import Vectors, peak_mib

IMPORTED = 100_000
"""Edges on which its importer is timed."""


def run(folder: Path, options: argparse.Namespace) -> tuple[tuple[float, float], Vectors]:
    """Translation and dot, softmax, Adagrad at .1, batches of 1,000, 50 + 50 negatives, as its examples."""
    import h5py
    from torchbiggraph.config import parse_config
    from torchbiggraph.train import train

    logging.getLogger("torchbiggraph").setLevel(logging.WARNING)
    preparing = import_seconds(folder, options)
    write_graph(folder, options.nodes, h5py)
    began = time.perf_counter()
    train(parse_config(make_config(folder / "pbg", options.threads)))
    training, peak = time.perf_counter() - began, peak_mib()
    (table,) = (folder / "pbg/model").glob("embeddings_user_0.v*.h5")
    (model,) = (folder / "pbg/model").glob("model.v*.h5")
    with h5py.File(table) as vectors, h5py.File(model) as relations:
        shift = torch.from_numpy(relations["model/relations/0/operator/rhs/translation"][...])
        values = torch.from_numpy(vectors["embeddings"][...])
    ids = pc.binary_join_element_wise("u", pa.array(np.arange(options.nodes)).cast("string"), "")
    return (preparing, training), Vectors(ids, values, shift, peak)


def import_seconds(folder: Path, options: argparse.Namespace) -> float:
    """Seconds of its importer for all edges, by those for the first ones."""
    from torchbiggraph.config import parse_config
    from torchbiggraph.converters.import_from_tsv import convert_input_data

    part, into = folder / "part.tsv", folder / "pbg-part"
    with open(folder / "train.tsv") as file, open(part, "w") as start:
        lines = list(itertools.islice(file, IMPORTED))
        start.writelines(lines)
    config = parse_config(make_config(into, options.threads))
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        convert_input_data(config.entities, config.relations, config.entity_path, config.edge_paths, [part], 0, 1)
    return (time.perf_counter() - began) * options.edges / len(lines)


def make_config(folder: Path, workers: int) -> dict[str, Any]:
    return {
        "entity_path": str(folder), "edge_paths": [str(folder / "edges")], "checkpoint_path": str(folder / "model"),
        "entities": {"user": {"num_partitions": 1}},
        "relations": [{"name": "follow", "lhs": "user", "rhs": "user", "operator": "translation"}],
        "dimension": 64, "comparator": "dot", "loss_fn": "softmax", "lr": 0.1, "num_epochs": 1,
        "batch_size": 1000, "num_batch_negs": 50, "num_uniform_negs": 50, "workers": workers,
        "eval_fraction": 0.0, "global_emb": False,
    }  # fmt: skip


def write_graph(folder: Path, nodes: int, h5py: Any) -> None:
    """The graph in its format, a user's number as index."""
    edges = folder / "pbg/edges"
    edges.mkdir(parents=True)
    (folder / "pbg/entity_count_user_0.txt").write_text(str(nodes))
    options = csv.ReadOptions(column_names=["lhs", "rhs"])
    table = csv.read_csv(folder / "train.tsv", options, csv.ParseOptions(delimiter="\t"))
    with h5py.File(edges / "edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for name in ("lhs", "rhs"):
            file[name] = pc.cast(pc.utf8_slice_codeunits(table[name], 1), "int64").to_numpy()
        file["rel"] = np.zeros(len(table), np.int64)
