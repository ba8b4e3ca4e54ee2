"""How fast are two ranks that share the tables, and what do their steps spend time on?

Two gloo ranks on this machine, one thread each, with the settings of `bench_train`. For each kind of sharding, reports
the edges/s of both ranks without a profiler, and then the breakdown of a step by torch's profiler, averaged over the
ranks. Under the profiler the ranks also wait for each other before they exchange rows and gradients. They would wait
within the exchange anyway; this separates waiting from exchanging. Ends in one JSON line.

    python -m benchmarks.bench_sharded [--edges FILE.parquet --lhs COLUMN --rhs COLUMN] [--dim 64] [--uniform 50]
        [--batch 10000] [--chunk 1000] [--sharding row_wise --sharding table_wise] [--steps 60] [--list 0]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.profiler import record_function
from torchrec.distributed.comm_ops import All2All_Seq_Req_Wait
from torchrec.distributed.dist_data import SequenceEmbeddingsAllToAll

from benchmarks import bench_train
from benchmarks.plain_loop import Bipartite, add_data_options, read_graph
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.data.epochs import State
from twhin_core.data.files import EdgeFiles
from twhin_core.distributed.ranks import process_group
from twhin_core.model.batch import Batch
from twhin_core.schema import Schema
from twhin_core.training.batches import Batches
from twhin_core.training.build import build
from twhin_core.training.shard_rows import ShardRows

# An operation belongs to the first phase whose pattern matches its name, or else to the phase of its caller.
PHASES = {
    "waiting for data": r"^waiting for data$",
    "waiting for the other rank": r"^waiting for the other rank$",
    "ids to the ranks that hold their rows": r"splits_dist|data_dist|KJTAllToAll|all2all_data|SplitsAllToAll|FusedKJT"
    r"|block_bucketize|runtime_forward_assemble|KJTListAwaitable|KJTListSplits",
    "looking up": r"\[lookup\]|split_embedding_nobag_codegen_forward",
    "rows to the ranks that asked": r"output_dist|All2All_Seq_Req_Wait$|All2All_Seq_Req$|construct_jagged"
    r"|EmbeddingCollectionAwaitable|SequenceEmbeddings",
    "gradients back": r"All2All_Seq.*Backward|All2All_Seq_bwd",
    "updating rows": r"^ShardRows.finish|split_embedding_nobag_backward",
    "relations, with their sum over the ranks": r"allreduce_|^Optimizer\.step#(?!Combined)",
    "scoring, forward and backward": r"^step$",
}
EXCHANGES = ("ids to the ranks that hold their rows", "rows to the ranks that asked", "gradients back")


def train(rank: int, port: int, sharding: str, graph: Bipartite, options: argparse.Namespace, answers: Any) -> None:
    """One rank: timed steps, then profiled steps."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    config = make_config(sharding, options)
    schema = Schema({"user": graph.users, "item": graph.items}, config.model.relations)
    with process_group() as ranks, tempfile.TemporaryDirectory() as folder:
        edges = EdgeFiles([graph.write(folder)], schema)
        model = build(config, schema, ranks)
        steps = model.steps(waited_for(endless(Batches(config, schema, edges, config.train_data, ranks))))
        sum(1 for _ in islice(steps, 5))
        dist.barrier()
        started = time.perf_counter()
        learned = sum(step_edges for _, step_edges in islice(steps, options.steps))
        speed = learned / (time.perf_counter() - started)
        name_phases()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(options.steps // 3):
                with record_function("step"):
                    next(steps)
        dist.barrier()
    answers.put((rank, speed, phases(profiler, options.list if rank == 0 else 0)))


def name_phases() -> None:
    """Makes row updates, and waiting for the other rank, visible to the profiler."""
    update = ShardRows.finish

    def finish(rows: ShardRows, step: int) -> None:
        with record_function("ShardRows.finish"):
            update(rows, step)

    def together(exchange: Callable[..., Any]) -> Callable[..., Any]:
        def waited(*arguments: Any, **named: Any) -> Any:
            with record_function("waiting for the other rank"):
                dist.barrier()
            return exchange(*arguments, **named)

        return waited

    ShardRows.finish = finish  # type: ignore[method-assign]  # only while measuring: named in the profile
    SequenceEmbeddingsAllToAll.forward = together(SequenceEmbeddingsAllToAll.forward)
    All2All_Seq_Req_Wait.backward = staticmethod(together(All2All_Seq_Req_Wait.backward))


def endless(batches: Batches) -> Iterator[tuple[Batch, int]]:
    """The batches of all epochs, each with the number of edges of its step."""
    for batch, _ in batches.epochs(State(epoch=0, edges=0), num_epochs=sys.maxsize):
        yield batch, batch.step_edges


def waited_for(batches: Iterator[tuple[Batch, int]]) -> Iterator[tuple[Batch, int]]:
    while True:
        with record_function("waiting for data"):
            entry = next(batches)
        yield entry


def phases(profiler: Any, listed: int) -> dict[str, float]:
    """Each phase's share of the steps' time. Prints the `listed` longest operations of each."""
    rules = [(phase, re.compile(pattern)) for phase, pattern in PHASES.items()]
    events = profiler.events()
    steps = next(event.thread for event in events if event.name == "step")
    times: Counter[str] = Counter()
    operations: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.thread == steps and (phase := phase_of(event, rules)) is not None:
            times[phase] += event.self_cpu_time_total
            operations[phase, event.name] += event.self_cpu_time_total
    total = sum(times.values())
    for phase in PHASES if listed else ():
        of_phase = Counter({name: spent for (other, name), spent in operations.items() if other == phase})
        for name, spent in of_phase.most_common(listed):
            print(f"{phase:<45} {name[:60]:<60} {spent / total:6.1%}")
    return {phase: times[phase] / total for phase in PHASES}


def phase_of(event: Any, rules: list[tuple[str, re.Pattern[str]]]) -> str | None:
    while event is not None:
        for phase, pattern in rules:
            if pattern.search(event.name):
                return phase
        event = event.cpu_parent
    return None


def make_config(sharding: str, options: argparse.Namespace) -> Config:
    tree = bench_train.make_config(options).model_dump()
    for table in tree["model"]["embeddings"]["tables"]:
        table["sharding"] = sharding
    return config_file.validate(Config, tree, "benchmark")


def run(sharding: str, graph: Bipartite, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of both ranks for one kind of sharding."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(train, (port, sharding, graph, options, answers), nprocs=options.ranks)
    ranks = [answers.get() for _ in range(options.ranks)]
    shares = {phase: sum(found[phase] for _, _, found in ranks) / len(ranks) for phase in PHASES}
    return {
        "edges_per_s": round(sum(speed for _, speed, _ in ranks) / len(ranks)),
        "exchanges": round(sum(shares[phase] for phase in EXCHANGES), 3),
        "shares": {phase: round(share, 3) for phase, share in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=10_000, help="edges per rank and step")
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--amp", action="store_true", help="score products in bf16")
    parser.add_argument("--sharding", action="append", help="default: row_wise and table_wise")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--list", type=int, default=0, help="print this many of the longest operations of each phase")
    options = parser.parse_args()
    graph = read_graph(options)
    kinds = options.sharding or ["row_wise", "table_wise"]
    found = {sharding: run(sharding, graph, options) for sharding in kinds}
    for phase in PHASES:
        print(f"{phase:<45}", *(f"{found[kind]['shares'][phase]:8.1%}" for kind in kinds))
    print(json.dumps({"benchmark": "sharded", "ranks": options.ranks, "dim": options.dim, **found}))


if __name__ == "__main__":
    main()
