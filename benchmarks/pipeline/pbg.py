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

import numpy as np
import pyarrow.compute as pc
from pyarrow import csv

from benchmarks import biggraph
from benchmarks.pipeline.ranks import DIM, Vectors, names, peak_mib
from twhin_core.config import Relation
from twhin_core.schema import Schema

IMPORTED = 20_000
"""Edges on which its importer is timed."""


def run(folder: Path, options: argparse.Namespace) -> tuple[tuple[float, float], Vectors]:
    """An epoch with `biggraph.make_config`."""
    from torchbiggraph.config import parse_config
    from torchbiggraph.train import train

    logging.getLogger("torchbiggraph").setLevel(logging.WARNING)
    schema = Schema({"user": options.nodes}, [Relation(name="follow", lhs="user", rhs="user")])
    preparing = import_seconds(folder, schema, options)
    of_pbg = folder / "pbg"
    write_graph(folder / "train.tsv", of_pbg, schema)
    began = time.perf_counter()
    train(parse_config(biggraph.make_config(of_pbg, schema, DIM, epochs=1, workers=options.threads)))
    training, peak = time.perf_counter() - began, peak_mib()
    tables, shifts = biggraph.read_model(of_pbg, schema, epoch=1)
    return (preparing, training), Vectors(
        names(np.arange(options.nodes)), tables["user"], shifts["rhs"][0], peak, shifts_rhs=True
    )


def import_seconds(folder: Path, schema: Schema, options: argparse.Namespace) -> float:
    """Seconds of its importer for all edges, by those for the first ones."""
    from torchbiggraph.config import parse_config
    from torchbiggraph.converters.import_from_tsv import convert_input_data

    part = folder / "part.tsv"
    with open(folder / "train.tsv") as file, open(part, "w") as start:
        lines = list(itertools.islice(file, IMPORTED))
        start.writelines(lines)
    config = parse_config(biggraph.make_config(folder / "pbg-part", schema, DIM, epochs=1, workers=options.threads))
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        convert_input_data(config.entities, config.relations, config.entity_path, config.edge_paths, [part], 0, 1)
    return (time.perf_counter() - began) * options.edges / len(lines)


def write_graph(raw: Path, folder: Path, schema: Schema) -> None:
    """The graph in its format, a user's number as index."""
    options = csv.ReadOptions(column_names=["lhs", "rhs"])
    table = csv.read_csv(raw, options, csv.ParseOptions(delimiter="\t"))
    lhs, rhs = (pc.cast(pc.utf8_slice_codeunits(column, 1), "int64").to_numpy() for column in table.columns)
    biggraph.write_graph(folder, schema, lhs, np.zeros(len(table), np.int64), rhs)
