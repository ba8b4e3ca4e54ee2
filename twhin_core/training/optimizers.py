"""The optimizers of a model: those fused with the backward pass, of replicated tables, and of the relations.

All follow docs/numerics.md, each with the rate that its schedule gives for the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim import Adam as FusedAdam
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from twhin_core.config import Config
from twhin_core.config.optimizer import Optimizer
from twhin_core.model.twhin import Twhin
from twhin_core.training.frozen_rows import FrozenRows, KeptRows, kernels_of
from twhin_core.training.local_model import LocalModel
from twhin_core.training.row_optimizer import RowOptimizer, positive_eps
from twhin_core.training.schedules import rate
from twhin_core.training.shard_rows import ShardRows

CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
}
"""The relations' optimizers, by config section."""

FUSED: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": FusedAdam,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "spherical_adagrad": RowWiseAdagrad,
}
"""The classes that stand for fused kernels and take the kernels' arguments."""


def fuse(config: Config, twhin: Twhin) -> None:
    """Assigns an optimizer in the backward pass to each table that is not replicated.

    Tables with equal arguments share a kernel and its rate. The rate given here is therefore the optimizer's index in
    `_distinct_optimizers`; the real rate is set before each step.
    """
    for table in config.model.embeddings.tables:
        if table.sharding != "data_parallel":
            arguments = _arguments(table.optimizer)
            arguments["lr"] = float(_distinct_optimizers(config).index(table.optimizer))
            if table.optimizer.name == "adam":
                arguments["beta1"], arguments["beta2"] = arguments.pop("betas")
            if table.is_spherical:  # a tangent step lengthens a row, so the bound is its length; only on GPUs
                arguments |= {"max_norm": 1.0, "eps": arguments["eps"] / math.sqrt(table.embedding_dim)}
            weight = twhin.tables.embeddings[table.name].weight
            apply_optimizer_in_backward(FUSED[table.optimizer.name], [weight], arguments)
    if twhin.anchors is not None:  # for a kernel of their own, which no gradient reaches
        apply_optimizer_in_backward(torch.optim.SGD, list(twhin.anchors.parameters()), {"lr": 0.0})
    if twhin.content is not None:
        apply_optimizer_in_backward(torch.optim.SGD, list(twhin.content.parameters()), {"lr": 0.0})


def _arguments(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's settings as the kernels and torch take them."""
    arguments: dict[str, Any] = optimizer.choice.model_dump()
    if "eps" in arguments:
        arguments["eps"] = positive_eps(arguments["eps"])
    return arguments


def _distinct_optimizers(config: Config) -> list[Optimizer]:
    """The distinct optimizers of the tables."""
    distinct: list[Optimizer] = []
    for table in config.model.embeddings.tables:
        if table.optimizer not in distinct:
            distinct.append(table.optimizer)
    return distinct


FIXED_RATES = {"scorer.prior": 0.005, "towers.": 0.03, "predictors.": 0.3}
"""By the start of parameters' names, the rates of their Adagrad: the first step, whatever the scale of the gradient.

The prior's weights are near 1, and content has a mean square of 1, whatever the scale of vectors. Towers compete with
the rows of ids, and at a high rate they would fit what content says by chance. Predictors follow these rows."""


class Optimizers:
    """All optimizers of a model. `start` sets the rates of a step; `finish` updates after its backward pass."""

    def __init__(
        self, config: Config, model: DistributedModelParallel | LocalModel, shards: Sequence[ShardRows] = ()
    ) -> None:
        """`shards`: optimizers of rows whose kernels do not update them."""
        self._steps = torch.zeros((), dtype=torch.int64)
        self._before = 0
        self._choice = config.model.translation_optimizer
        self._dense = {
            f"{part}.{name}": of
            for part in ("scorer", "towers", "predictors")
            for name, of in getattr(model.module, part).named_parameters()
        }
        rates = {name: rate for name in self._dense for start, rate in FIXED_RATES.items() if name.startswith(start)}
        relations = [of for name, of in self._dense.items() if name not in rates]
        self._relations = _relation_optimizer(self._choice, relations)
        groups = [{"params": [self._dense[name]], "lr": rate} for name, rate in rates.items()]
        self._fixed = torch.optim.Adagrad(groups) if groups else None
        self._of = {name: self._fixed if name in rates else self._relations for name in self._dense}
        self._tables: list[TableOptimizer] = []
        if isinstance(model, LocalModel):
            self._tables.append(model.tables)
            return
        updated = [shard.kernel for shard in shards]
        own = [kernel for kernel in kernels_of(model) if all(kernel is not of for of in updated)]
        self._tables += [FusedTables(model, own, _distinct_optimizers(config), config.model.dim), *shards]
        for table in config.model.embeddings.tables:
            if table.sharding == "data_parallel":
                weight = model.module.tables.embeddings[table.name].weight
                self._tables.append(ReplicatedTable(table.name, table.optimizer, weight))

    def count_from(self, step: int) -> None:
        """Continues after `step` of this run. Steps of an earlier version, whose state was loaded, are those beyond.

        Rates follow the steps of this run; Adam's bias correction counts all steps.
        """
        self._before = int(self._steps) - step
        for table in self._tables:
            table.steps_before = self._before

    def freeze(self, frozen: FrozenRows) -> None:
        """Leaves frozen rows as they are from now on."""
        for table in self._tables:
            table.freeze(frozen)

    def start(self) -> None:
        """Clears the gradients and sets the rates of the next step."""
        step = int(self._steps) - self._before + 1
        for group in self._relations.param_groups:
            group["lr"] = rate(self._choice, step)
        self._relations.zero_grad()
        if self._fixed is not None:
            self._fixed.zero_grad()
        for table in self._tables:
            table.start(step)

    def finish(self) -> None:
        """Updates what the backward pass has not; every rank has the same gradients for it."""
        self._relations.step()
        if self._fixed is not None:
            self._fixed.step()
        self._steps += 1
        for table in self._tables:
            table.finish(int(self._steps) - self._before)

    def state(self) -> dict[str, Tensor | ShardedTensor]:
        """The state by name, independent of the sharding; changing it in place changes the optimizers."""
        state: dict[str, Tensor | ShardedTensor] = {"optimizer.steps": self._steps}
        for table in self._tables:
            state.update(table.optimizer_state())
        for name, parameter in self._dense.items():
            optimizer = self._of[name]
            assert optimizer is not None
            entries = optimizer.state[parameter]
            state.update({f"optimizer.{name}.{key}": value for key, value in entries.items()})
        return state


class TableOptimizer(Protocol):
    """The optimizer of one or more tables, called before and after each backward pass. `step` counts from 1."""

    steps_before: int
    """Steps of an earlier version that its state includes."""

    def freeze(self, frozen: FrozenRows) -> None: ...

    def start(self, step: int) -> None: ...

    def finish(self, step: int) -> None: ...

    def optimizer_state(self) -> Mapping[str, Tensor | ShardedTensor]: ...


class FusedTables:
    """Tables that the backward pass updates."""

    def __init__(
        self,
        model: DistributedModelParallel,
        own: Sequence[SplitTableBatchedEmbeddingBagsCodegen],
        distinct: list[Optimizer],
        dim: int,
    ) -> None:
        """`own`: the kernels that update their rows."""
        self._dim, self._own = dim, own
        self._kept: list[KeptRows] = []
        self._fused = model.fused_optimizer
        self._groups = [(group, distinct[round(float(group["lr"]))]) for group in self._fused.param_groups]
        self._kernels_count = False
        self.steps_before = 0

    def freeze(self, frozen: FrozenRows) -> None:
        self._kept = [KeptRows(kernel, frozen) for kernel in self._own]

    def start(self, step: int) -> None:
        if self._groups and not self._kernels_count:
            # Adam's bias correction needs the step number, which its kernel counts from the value set here.
            self._fused.set_optimizer_step(self.steps_before + step - 1)
            self._kernels_count = True
        for group, optimizer in self._groups:
            # The kernel divides by the root of the mean square, not of the sum.
            per_mean = 1 / math.sqrt(self._dim) if optimizer.name == "spherical_adagrad" else 1.0
            group["lr"] = rate(optimizer, step) * per_mean
        self._fused.step()  # passes the rates to the kernels; the backward pass does the update

    def finish(self, step: int) -> None:
        """Puts frozen rows back: the backward pass has updated all."""
        for kept in self._kept:
            kept.put_back()

    def optimizer_state(self) -> dict[str, ShardedTensor]:
        state = {}
        for weight, entries in self._fused.state_dict()["state"].items():
            state.update({f"optimizer.{weight}.{name}": value for name, value in entries.items()})
        return state


class ReplicatedTable:
    """A table that every rank has a copy of; updates only the rows that have a gradient.

    Gradients are dense and averaged over the ranks, which keeps all copies equal.
    """

    def __init__(self, name: str, optimizer: Optimizer, weight: Tensor) -> None:
        assert optimizer.name != "adam", "a zero gradient does not tell whether a row was looked up"
        self._weight = weight
        self._optimizer = RowOptimizer(name, optimizer, weight)
        self.steps_before = 0

    def freeze(self, frozen: FrozenRows) -> None:
        self._optimizer.freeze(frozen)

    def start(self, step: int) -> None:
        if self._weight.grad is not None:
            self._weight.grad.zero_()

    def finish(self, step: int) -> None:
        gradient = self._weight.grad
        assert gradient is not None
        rows = gradient.any(1).nonzero().squeeze(1)
        self._optimizer.update(rows, self._weight.data[rows], gradient[rows], step)

    def optimizer_state(self) -> dict[str, Tensor]:
        return self._optimizer.state()


def _relation_optimizer(optimizer: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    made = CLASSES[optimizer.name](parameters, **_arguments(optimizer))
    # Adam creates its state in its first step, but checkpoints need it before; these are the same initial values.
    if isinstance(made, torch.optim.Adam):
        for parameter in parameters:
            made.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return made
