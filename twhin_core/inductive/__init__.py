"""Vectors of nodes that were not trained, from their edges to nodes that were."""
