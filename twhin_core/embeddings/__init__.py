"""The result of a run, to be asked in a notebook or on the command line: `Embeddings.load(run_root)`."""

from twhin_core.embeddings.embeddings import Embeddings
from twhin_core.embeddings.table import Neighbor, TableEmbeddings

__all__ = ["Embeddings", "Neighbor", "TableEmbeddings"]
