"""Queries of a trained run, from a notebook or the command line: `Embeddings.load(run_root)`."""

from twhin_core.embeddings.embeddings import Embeddings
from twhin_core.embeddings.table import Neighbor, TableEmbeddings

__all__ = ["Embeddings", "Neighbor", "TableEmbeddings"]
