"""How a second relation is best weighted for the sake of a first one: `model.target` beside its alternatives.

    python -m benchmarks.bench_relations [--networks helpful useless misleading shifted] [--seeds 3] [--users 600] …

Users and items belong to communities; most edges of the first relation, which is asked for, stay within one. The second
leads between users, in both directions:

    helpful      mostly within the same communities
    useless      at random
    misleading   mostly within other communities, drawn anew
    shifted      mostly from each community to the next one

Every way of weighting trains as many epochs, so that it sees the first relation's edges equally often. Ways:

    alone        without the second relation
    equal        weight 1
    per-edge     the second relation weighs as much as the first
    weight-W     a fixed weight; "grid" is the one that ranks validation edges best
    uncertainty  weights 1 / loss, as learned variances settle at (Kendall et al., 2018)
    alignment    from 1, up or down by a tenth as the gradients agree or not, 50 times
    fine-tuning  falls from 1 to 0 over the first half of training
    target       as `model.target` does

Prints recall@20 and MRR of the first relation's test edges, and the difference from "alone" with its 95 % interval,
paired by test edge over all seeds. A seed draws a network and initial weights. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.communities import Ints, lead_within
from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.distributed.ranks import alone, process_group
from twhin_core.model.alignment import falls_along
from twhin_core.model.batch import Batch
from twhin_core.model.batch_maker import BatchMaker
from twhin_core.model.twhin import Twhin
from twhin_core.schema import Schema
from twhin_core.training.build import build
from twhin_core.training.relation_weights import ADJUSTMENTS, CHANGE, RelationWeights
from twhin_core.training.schedules import until

Floats = npt.NDArray[np.float64]

NETWORKS = ("helpful", "useless", "misleading", "shifted")
GRID = (0.03, 0.1, 0.3)
FIXED = tuple(f"weight-{weight}" for weight in GRID)
WAYS = ("alone", "equal", "per-edge", *FIXED, "uncertainty", "alignment", "fine-tuning", "target")
TEST, VALIDATION, K = 0.2, 0.1, 20


@dataclass(frozen=True)
class Network:
    """Edges [n, 2] of the first relation by split, and of the second."""

    train: Ints
    validation: Ints
    test: Ints
    other: Ints


def draw(count: int, lhs: Ints, rhs: Ints, popularity: Floats, within: float, rng: np.random.Generator) -> Ints:
    """About `count` distinct pairs; a share `within` of them joins equal communities. `lhs`, `rhs`: of each node."""
    left, right = rng.integers(len(lhs), size=count), rng.choice(len(rhs), count, p=popularity)
    inside = rng.random(count) < within
    lead_within(right, inside, lhs[left], rhs, popularity, rng)
    return rng.permutation(np.unique(np.stack([left, right], 1), axis=0))


def network(name: str, options: argparse.Namespace, seed: int) -> Network:
    rng = np.random.default_rng(seed)
    count = options.communities
    users, items = (rng.permutation(rows) % count for rows in (options.users, options.items))
    popularity = (1.0 + rng.permutation(options.items)) ** -0.5
    edges = draw(options.edges, users, items, popularity / popularity.sum(), 0.8, rng)
    test, validation = round(TEST * len(edges)), round((TEST + VALIDATION) * len(edges))
    lhs, rhs, within = {
        "helpful": (users, users, 0.9),
        "useless": (users, users, 0.0),
        "misleading": (*[rng.permutation(options.users) % count] * 2, 0.9),
        "shifted": (users, (users - 1) % count, 0.9),
    }[name]
    pairs = draw(options.others // 2, lhs, rhs, np.full(options.users, 1 / options.users), within, rng)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return Network(edges[validation:], edges[test:validation], edges[:test], np.concatenate([pairs, pairs[:, ::-1]]))


def configured(options: argparse.Namespace, seed: int, way: str) -> Config:
    """The config of docs/tuning.md for users and items, smaller."""
    rate = {"linear_ramp_to_cosine": {"learning_rate": 3.0, "final_learning_rate": 0.0, "num_ramp_steps": 1}}
    rows = {"user": options.users, "item": options.items}
    relations = [{"name": "first", "lhs": "user", "rhs": "item", "operator": "identity"}]
    if way != "alone":
        relations.append({"name": "second", "lhs": "user", "rhs": "user", "operator": "identity"})
    tree: dict[str, Any] = {
        "model": {
            "embeddings": {
                "tables": [
                    {
                        "name": name,
                        "num_embeddings": size,
                        "embedding_dim": options.dim,
                        "optimizer": {"spherical_adagrad": {"lr": 3.0}, "learning_rate": rate},
                    }
                    for name, size in rows.items()
                ]
            },
            "relations": relations,
            "target": None if way == "alone" else "first",
            "translation_optimizer": {"adagrad": {"lr": 0.1}},
            "loss": "softmax",
            "temperature": 0.12,
        },
        "training": {"seed": seed, "num_epochs": options.epochs},
        "train_data": {
            "data_root": "unused",
            "per_replica_batch_size": options.batch,
            "in_batch_negatives": 50,
            "global_negatives": 50,
            "self_negatives": way != "alone",
        },
    }
    return Config.model_validate(tree)


@dataclass(frozen=True)
class InMemory:
    """Edges in place of files."""

    edges: Edges

    def chunks(self, rank: int, world_size: int) -> list[Edges]:
        return [self.edges.take(slice(rank, None, world_size))]


def edges_of(first: Ints, second: Ints) -> Edges:
    pairs, rel = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
    return Edges(pairs[:, 0].copy(), rel, pairs[:, 1].copy(), np.ones(len(pairs), np.float32))


class Weighting:
    """Sets the weight of the second relation as a way of weighting says."""

    def __init__(self, way: str, net: Network, adjusted: RelationWeights, last_step: int) -> None:
        self.way, self.adjusted, self.last_step = way, adjusted, last_step
        self.every = max(1, last_step // ADJUSTMENTS)
        self.weight = 1.0
        if way == "per-edge":
            self.weight = len(net.train) / len(net.other)
        elif way.startswith("weight-"):
            self.weight = float(way.removeprefix("weight-"))
        self.losses = torch.ones(2)

    def before(self, twhin: Twhin, step: int, batch: Batch) -> None:
        """Sets the weight for `step`, counted from 1, which trains on `batch`."""
        assert twhin.relation_weights is not None
        done = step - 1
        if self.way == "target":
            if done == 0:
                self.adjusted.start(twhin)
            elif self.adjusted.is_due(done):
                self.adjusted.adjust(twhin, done)
            return
        if self.way == "fine-tuning":
            self.weight = max(0.0, 1 - done / (self.last_step / 2))
        elif done and done % self.every == 0:
            if self.way == "alignment":
                compared = self.adjusted.drawn(done)
                sign = float(falls_along(twhin, compared, 0, {"user", "item"})[1].sign())
                self.weight = min(1.0, max(0.0, self.weight + CHANGE * sign))
            elif self.way == "uncertainty":
                self.weight = self._of_uncertainty(twhin, batch)
        twhin.relation_weights.copy_(torch.tensor([1.0, self.weight]))

    @torch.no_grad()
    def _of_uncertainty(self, twhin: Twhin, batch: Batch) -> float:
        assert batch.lookups is not None
        counts = torch.bincount(batch.queries["rhs"].rel.flatten(), minlength=2).clamp(min=1)
        losses = twhin.losses_of_relations(batch, twhin.looked_up(batch.lookups)) / (2 * counts)
        self.losses = losses if self.losses.eq(1).all() else 0.8 * self.losses + 0.2 * losses
        return float(self.losses[0] / self.losses[1])


@dataclass(frozen=True)
class Trained:
    hits: Floats
    """Of each test edge, whether its item is among the first `K`."""
    reciprocal: Floats
    """One over its rank."""
    on_validation: float
    seconds: float


def train(way: str, net: Network, options: argparse.Namespace, seed: int) -> Trained:
    config = configured(options, seed, way)
    edges = edges_of(net.train, net.other if way != "alone" else net.other[:0])
    last_step = options.epochs * -(-len(edges) // options.batch)
    config = until(last_step, config)
    schema = Schema({"user": options.users, "item": options.items}, config.model.relations)
    model, rng = build(config, schema, alone()), np.random.default_rng(seed)
    twhin: Twhin = model.model.module
    weighting = None
    if way != "alone":
        held_out = InMemory(edges_of(net.validation, net.other[:0]))
        adjusted = RelationWeights(config, schema, InMemory(edges), held_out, None, last_step, alone())  # type: ignore[arg-type]
        weighting = Weighting(way, net, adjusted, last_step)
    maker, generator = BatchMaker(schema, config.model, config.train_data), torch.Generator().manual_seed(seed)
    step, started = 0, time.perf_counter()
    for _ in range(options.epochs):
        order = rng.permutation(len(edges))
        for start in range(0, len(order), options.batch):
            step += 1
            rows = order[start : start + options.batch]
            batch = maker.make(edges.take(rows), len(rows), generator)
            if weighting is not None:
                weighting.before(twhin, step, batch)
            model.step(batch)
    seconds = time.perf_counter() - started
    user, item = (model.state()[f"tables.embeddings.{table}.weight"] for table in ("user", "item"))
    scores = (user @ item.T).numpy()
    ranks = _ranks(scores, net.test, np.concatenate([net.train, net.validation]))
    held = _ranks(scores, net.validation, net.train)
    return Trained((ranks <= K).astype(np.float64), 1 / ranks, float((held <= K).mean()), seconds)


def _ranks(scores: npt.NDArray[np.float32], asked: Ints, known: Ints) -> Floats:
    """The rank of each pair's item among those that its user is not known to have, and not asked about either."""
    others = scores.copy()
    for pairs in (known, asked):
        others[pairs[:, 0], pairs[:, 1]] = -np.inf
    ranks: Floats = 1.0 + (others[asked[:, 0]] > scores[asked[:, 0], asked[:, 1]][:, None]).sum(1)
    return ranks


def compared(mine: list[Trained], alone_: list[Trained]) -> dict[str, float]:
    """Means over all test edges, and the differences from training alone with the half width of their intervals."""
    found = {}
    for name, field in (("recall@20", "hits"), ("mrr", "reciprocal")):
        values, base = (np.concatenate([getattr(one, field) for one in of]) for of in (mine, alone_))
        apart = values - base
        found |= {
            name: values.mean(),
            f"{name} difference": apart.mean(),
            f"{name} interval": 1.96 * apart.std() / np.sqrt(len(apart)),
        }
    found["seconds"] = np.mean([one.seconds for one in mine])
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="alone is always among them")
    sizes = {"seeds": 3, "users": 600, "items": 600, "communities": 12, "edges": 4800, "others": 9000}
    for name, default in (sizes | {"dim": 32, "batch": 500, "epochs": 15, "threads": 1}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with process_group():
        report = {name: measure(name, options) for name in options.networks}
    print(json.dumps({"benchmark": "relations", "networks": report}))


def measure(name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What `compared` says of each way on networks of that name."""
    report: dict[str, dict[str, float]] = {}
    nets = [network(name, options, seed) for seed in range(options.seeds)]
    runs: dict[str, list[Trained]] = {}
    for way in dict.fromkeys(["alone", *options.ways]):
        runs[way] = [train(way, net, options, seed) for seed, net in enumerate(nets)]
        _show(name, way, report, runs)
    fixed = [runs[way] for way in ("equal", *FIXED) if way in runs]
    if len(fixed) > 1:
        best = [max(of_seed, key=lambda one: one.on_validation) for of_seed in zip(*fixed, strict=True)]
        seconds = np.sum([[one.seconds for one in of] for of in fixed], 0)
        runs["grid"] = [replace(one, seconds=float(took)) for one, took in zip(best, seconds, strict=True)]
        _show(name, "grid", report, runs)
    return report


def _show(name: str, way: str, report: dict[str, dict[str, float]], runs: dict[str, list[Trained]]) -> None:
    report[way] = found = compared(runs[way], runs["alone"])
    figures = (
        f"{metric} {found[metric]:.4f} ({found[f'{metric} difference']:+.4f} ± {found[f'{metric} interval']:.4f})"
        for metric in ("recall@20", "mrr")
    )
    print(f"{name:10}  {way:11}  {'  '.join(figures)}  {found['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
