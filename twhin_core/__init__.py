"""TwHIN: embeddings of a heterogeneous information network, learned from typed edges."""

__version__ = "0.1.0"
