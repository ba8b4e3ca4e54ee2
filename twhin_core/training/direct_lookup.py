"""The lookup of a process that trains alone on a GPU: straight from fbgemm's kernels, without torchrec's way to them.

Weights, optimizers and their names stay torchrec's. But its lookup sends ids to the ranks that hold the rows, and waits
on the host for how many come; a rank that holds all rows spends most of a step on that.
"""

from __future__ import annotations

from dataclasses import dataclass

from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel


@dataclass(frozen=True)
class DirectLookup:
    """Looks up the tables of all kernels, each with its rows whole."""

    kernels: list[tuple[list[str], SplitTableBatchedEmbeddingBagsCodegen]]
    """The tables of each kernel in its order, one feature each."""

    @staticmethod
    def of(model: DistributedModelParallel) -> DirectLookup | None:
        """Of a model on one rank; None where a table is in another kind of kernel, as copies are."""
        kernels = [
            ([module.table_names[table] for table in module.feature_table_map], module)
            for lookup in model.module.tables._lookups  # torchrec hides them from modules()
            for module in lookup.modules()
            if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
        ]
        found = [name for names, _ in kernels for name in names]
        return DirectLookup(kernels) if sorted(found) == sorted(model.module.tables.embeddings) else None

    def __call__(self, lookups: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """The rows of each table, float32 [n, dim]."""
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
    """Has a model on one rank look rows up straight from its kernels; whether it does."""
    lookup = DirectLookup.of(model)
    if lookup is not None:
        model.module.tables.forward = lookup
    return lookup is not None
