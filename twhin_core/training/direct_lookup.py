"""Lookups of a single rank on a GPU, straight from fbgemm's kernels instead of through torchrec.

Weights, optimizers and their names stay torchrec's. Its lookup, however, sends ids to the ranks that hold the rows and
synchronizes with the host to learn how many arrive, which a rank that holds all rows need not do.
"""

from __future__ import annotations

from dataclasses import dataclass

from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel


@dataclass(frozen=True)
class DirectLookup:
    """Looks up rows in all kernels; each must hold its tables whole."""

    kernels: list[tuple[list[str], SplitTableBatchedEmbeddingBagsCodegen]]
    """Each kernel with its tables in order, one feature per table."""

    @staticmethod
    def of(model: DistributedModelParallel) -> DirectLookup | None:
        """The lookup of a model on one rank; None if a table is in another kind of kernel, as replicated tables are."""
        kernels = [
            ([module.table_names[table] for table in module.feature_table_map], module)
            for lookup in model.module.tables._lookups  # modules() does not list them
            for module in lookup.modules()
            if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
        ]
        found = [name for names, _ in kernels for name in names]
        return DirectLookup(kernels) if sorted(found) == sorted(model.module.tables.embeddings) else None

    def __call__(self, lookups: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each table: float32 [n, dim]."""
        keys, values, stride = lookups.keys(), lookups.values(), lookups.stride()
        lengths, ends = lookups.lengths(), lookups.length_per_key()
        offsets = lookups.offsets().long()
        found = {}
        for names, kernel in self.kernels:
            if names == keys:
                rows = kernel(indices=values, offsets=offsets)
            else:
                part = lookups.permute([keys.index(name) for name in names])
                rows = kernel(indices=part.values(), offsets=part.offsets().long())
            counts = [ends[keys.index(name)] for name in names]
            for name, of_table in zip(names, rows.split(counts), strict=True):
                first = keys.index(name) * stride
                found[name] = JaggedTensor(of_table, lengths=lengths[first : first + stride])
        return found


def look_up_directly(model: DistributedModelParallel) -> bool:
    """Makes a model on one rank look up rows straight from its kernels. Returns whether it can."""
    lookup = DirectLookup.of(model)
    if lookup is not None:
        model.module.tables.forward = lookup
    return lookup is not None
