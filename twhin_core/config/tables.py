"""The section `model.embeddings`: the tables, how ranks divide them and where their rows are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin_core.config.initial import Initial
from twhin_core.config.numbers import Count, Location
from twhin_core.config.optimizer import Optimizer
from twhin_core.config.section import Section

Kernel = Literal["auto", "device", "cached", "host", "mapped"]


class Table(Section):
    """An embedding table, for one type of node."""

    name: str = Field(
        min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$", description="Unique; letters, digits, `_` and `-`."
    )
    num_embeddings: Count | None = Field(
        None, description="Number of rows. Default: the size of the vocabulary that `prepare` made."
    )
    embedding_dim: int = Field(
        gt=0,
        le=16_384,
        multiple_of=4,
        description="Number of columns; equal in all tables. The kernels need a multiple of 4.",
    )
    data_type: Literal["fp32", "fp16"] = Field(
        "fp32", description="Type of the weights. `fp16` halves their memory; optimizer state stays fp32."
    )
    sharding: Literal["auto", "data_parallel", "table_wise", "row_wise", "column_wise"] = Field(
        "auto",
        description="(ours) How the table is divided among ranks: `data_parallel` keeps a copy on each rank, "
        "`table_wise` the table on one rank, `row_wise` and `column_wise` divide it. `auto` lets a planner choose "
        "between table_wise and row_wise by the ranks' memory. A single CPU process does not shard.",
    )
    kernel: Kernel = Field(
        "auto",
        description="(ours) Where the rows are in training. `device`: in the GPU's memory or, without a GPU, in main "
        "memory. `cached`: in main memory, with a cache of recently used rows on the GPU. `host`: in main memory, "
        "which the GPU reads and writes. `mapped`: in a temporary file, for a process that trains alone on a CPU. "
        "`auto`: `device` if all tables fit; else the largest are `cached`, or `mapped` on a CPU.",
    )
    cache_load_factor: Annotated[float, Field(ge=1e-6, lt=1)] | None = Field(
        None,
        description="(ours) Share of the rows that the cache of kernel `cached` holds. Default: as many as the GPU's "
        "memory leaves room for.",
    )
    optimizer: Optimizer = Field(description="Runs inside the backward pass, row by row.")
    vocab: Location | None = Field(
        None,
        description="Folder of Parquet files (index: int64, id) with the rows' ids, for tables that `prepare` does not "
        "make. Default: each row's index is its id.",
    )
    initial: Initial | None = Field(
        None,
        description="(ours) Vectors from outside, at which rows start. See [vectors from outside](initial.md). "
        "Default: random ones.",
    )

    @model_validator(mode="after")
    def _check_sharding(self) -> Table:
        kind, optimizer = self.sharding, self.optimizer
        if kind == "column_wise" and optimizer.name == "rowwise_adagrad":
            raise ValueError(
                "sharding: column_wise is inexact with rowwise_adagrad, whose mean over a row would be taken per shard"
            )
        if kind == "column_wise" and self.is_spherical:
            raise ValueError("sharding: column_wise would split rows that spherical_adagrad keeps at length 1")
        if self.is_spherical and self.data_type == "fp16":
            raise ValueError("data_type: fp16 would round rows away from length 1, which spherical_adagrad keeps")
        if kind == "column_wise" and self.embedding_dim % 8:
            raise ValueError(f"sharding: column_wise cannot split {self.embedding_dim} columns into multiples of 4")
        if kind == "data_parallel" and optimizer.name == "adam":
            raise ValueError("sharding: data_parallel with adam would also update rows that no edge looked up")
        if kind == "data_parallel" and self.data_type == "fp16":
            raise ValueError("sharding: data_parallel would round the gradients of an fp16 table")
        return self

    @model_validator(mode="after")
    def _check_kernel(self) -> Table:
        if self.sharding == "data_parallel" and self.kernel not in ("auto", "device"):
            raise ValueError(
                f"kernel: {self.kernel} is for rows that one rank holds, and data_parallel keeps a copy on each; use "
                "row_wise"
            )
        if self.kernel == "cached" and self.is_frozen:
            raise ValueError("kernel: cached writes rows back late, and initial.frozen keeps them; use device or host")
        if self.kernel == "mapped" and self.data_type == "fp16":
            raise ValueError("kernel: mapped is for a process that trains alone on a CPU, which needs fp32 tables")
        if self.cache_load_factor is not None and self.kernel != "cached":
            raise ValueError(
                f"cache_load_factor: has no effect with kernel {self.kernel}; set kernel: cached or remove it"
            )
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether some of its rows are kept as they start."""
        return self.initial is not None and self.initial.frozen

    @property
    def is_spherical(self) -> bool:
        """Whether its rows have length 1."""
        return self.optimizer.spherical_adagrad is not None


class Embeddings(Section):
    """The embedding tables."""

    tables: list[Table] = Field(min_length=1, max_length=10_000, description="One entry per type of node.")

    @model_validator(mode="after")
    def _check_tables(self) -> Embeddings:
        names = [table.name for table in self.tables]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tables: names must be unique; repeated: {', '.join(repeated)}")
        if len({table.embedding_dim for table in self.tables}) > 1:
            dims = ", ".join(f"{table.name} {table.embedding_dim}" for table in self.tables)
            raise ValueError(f"tables: embedding_dim must be equal in all tables; got {dims}")
        return self
