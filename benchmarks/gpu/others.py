"""The step's work as others do it on this device: a plain PyTorch loop, and torchrec's own as its examples have it.

The plain loop has Adagrad on sparse gradients; both have tables small enough for its state, and score in memory.

    python -m benchmarks.gpu.others [--device cpu]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.common import Sizes, options, peak, report, timed, warm_up
from twhin_core.distributed.ranks import Ranks, process_group

LR = 0.1
MOST_ROWS = 20_000_000

Ends = tuple[Tensor, Tensor]
"""lhs and rhs of edges."""


def positives_and_negatives(
    edges: Ends, sizes: Sizes, negatives: int, rows: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """lhs and rhs [B], uniform nodes for either side [C · K]; negatives drawn on the device, edges copied there."""
    lhs, rhs = edges
    chunks = sizes.batch // sizes.chunk
    for first in itertools.cycle(range(0, len(lhs) - sizes.batch + 1, sizes.batch)):
        ends = (column[first : first + sizes.batch].to(device, non_blocking=True) % rows for column in (lhs, rhs))
        drawn = (torch.randint(rows, (chunks * negatives,), device=device) for _ in range(2))
        yield (*ends, *drawn)


def plain_loss(vectors: tuple[Tensor, ...], translation: Tensor, sizes: Sizes) -> Tensor:
    """As one would write it: the scores of all negatives beside the positives', then cross_entropy."""
    lhs, rhs, other_lhs, other_rhs = vectors
    chunks = sizes.batch // sizes.chunk
    moved, other_moved = lhs + translation, other_lhs + translation
    total = torch.zeros((), device=lhs.device)
    with torch.autocast(lhs.device.type, torch.bfloat16):
        for queries, answers, others in ((moved, rhs, other_rhs), (rhs, moved, other_moved)):
            positive = (queries * answers).sum(-1, keepdim=True)
            scores = torch.bmm(queries.view(chunks, sizes.chunk, -1), others.view(chunks, -1, lhs.shape[1]).mT)
            logits = torch.cat([positive, scores.flatten(0, 1)], 1)
            total = total + F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=lhs.device))
    return total


def plain_steps(edges: Ends, sizes: Sizes, negatives: int, device: torch.device) -> Iterator[None]:
    """torch.nn.Embedding with sparse gradients and Adagrad."""
    rows = min(sizes.rows, MOST_ROWS)
    table = torch.nn.Embedding(rows, sizes.dim, sparse=True, device=device)
    translation = torch.nn.Parameter(torch.zeros(sizes.dim, device=device))
    sparse = torch.optim.Adagrad(table.parameters(), lr=LR)
    dense = torch.optim.Adagrad([translation], lr=LR)
    for ids in positives_and_negatives(edges, sizes, negatives, rows, device):
        vectors = table(torch.cat(ids)).split([len(part) for part in ids])
        loss = plain_loss(vectors, translation, sizes)
        sparse.zero_grad(set_to_none=True)
        dense.zero_grad(set_to_none=True)
        loss.backward()
        sparse.step()
        dense.step()
        yield


def torchrec_steps(edges: Ends, sizes: Sizes, negatives: int, ranks: Ranks) -> Iterator[None]:
    """DistributedModelParallel of an EmbeddingBagCollection whose optimizer is in its backward pass."""
    import torchrec
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    rows, device = min(sizes.rows, MOST_ROWS), ranks.device
    table = torchrec.EmbeddingBagConfig(
        name="node", num_embeddings=rows, embedding_dim=sizes.dim, feature_names=["node"]
    )
    collection = torchrec.EmbeddingBagCollection(tables=[table], device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": LR})
    model = DistributedModelParallel(collection, device=device, sharders=[EmbeddingBagCollectionSharder()])
    translation = torch.nn.Parameter(torch.zeros(sizes.dim, device=device))
    dense = torch.optim.Adagrad([translation], lr=LR)
    for ids in positives_and_negatives(edges, sizes, negatives, rows, device):
        values = torch.cat(ids)
        lengths = torch.ones(len(values), dtype=torch.int32, device=device)
        found = model(torchrec.KeyedJaggedTensor(["node"], values, lengths=lengths))
        vectors = found.values().split([len(part) for part in ids])
        loss = plain_loss(vectors, translation, sizes)
        dense.zero_grad(set_to_none=True)
        loss.backward()
        dense.step()
        yield


def measure(sizes: Sizes, ranks: Ranks) -> None:
    rng = torch.Generator().manual_seed(0)
    edges = tuple((torch.rand(sizes.batch * 16, generator=rng) ** 3 * sizes.rows).long() for _ in range(2))
    if ranks.device.type == "cuda":
        edges = tuple(column.pin_memory() for column in edges)
    loops: dict[str, Callable[[int], Iterator[None]]] = {
        "plain_loop": lambda negatives: plain_steps((edges[0], edges[1]), sizes, negatives, ranks.device),
        "torchrec_loop": lambda negatives: torchrec_steps((edges[0], edges[1]), sizes, negatives, ranks),
    }
    for name, steps in loops.items():
        for negatives in sizes.negatives[:2]:
            running, count = steps(negatives), max(sizes.steps // 3, 2)
            warm_up(running, count)
            per_step = timed(running, count, ranks.device)
            report(
                name, negatives=negatives, edges_per_s=round(sizes.batch / per_step),
                ms_per_step=round(per_step * 1e3, 3), peak_GiB=peak(ranks.device),
            )  # fmt: skip


def main() -> None:
    _, sizes, _ = options(__doc__, [])
    with process_group() as ranks:
        measure(sizes, ranks)


if __name__ == "__main__":
    main()
