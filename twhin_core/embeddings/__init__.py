"""Queries of a trained run, from a notebook or the command line: `Embeddings.load(run_root)`."""

from twhin_core.embeddings.embeddings import Embeddings
from twhin_core.embeddings.table import Neighbor, TableEmbeddings
from twhin_core.embeddings.vector_table import VectorTable

__all__ = ["Embeddings", "Neighbor", "TableEmbeddings", "VectorTable"]
