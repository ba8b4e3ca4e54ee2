"""The sections `train_data`, `validation_data` and `test_data`: edges, and how their negatives are sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from twhin_core.config.numbers import BatchSize, Count, CountOrNone, Exponent, Location, Negatives
from twhin_core.config.section import Section


class EdgeData(Section):
    """A set of edges."""

    data_root: Location | None = Field(
        None,
        description="Glob of Parquet files with columns lhs, rel, rhs (vocabulary indices) and optionally weight; "
        "local or on an object store. Default: the split that `prepare` wrote under the run root.",
    )
    limit: Count | None = Field(None, description="Use at most this many edges, in data set order.")
    offset: CountOrNone = Field(0, description="Skip this many edges first, in data set order.")


class TrainData(EdgeData):
    """Edges to train on, and how their negatives are sampled."""

    per_replica_batch_size: BatchSize = Field(description="Positive edges per step and rank.")
    in_batch_negatives: Negatives = Field(
        0, description="Negatives per positive and side, drawn from the batch's edges of the same relation."
    )
    global_negatives: Negatives = Field(
        0,
        description="Negatives per positive and side, drawn from the relation's table. In a table of fewer rows "
        "they count as many as it has rows. Sampling is uniform unless `global_negatives_power` is set.",
    )
    global_negatives_power: Exponent = Field(
        0.0,
        description="(ours) Sample global negatives in proportion to (training degree of the node)^this. 0: uniformly, "
        "including nodes without edges; 0.75: as word2vec samples words; 1: in proportion to degree.",
    )
    logq_correction: bool = Field(
        False,
        description="(ours) Subtract from each score the log of the node's sampling probability relative to uniform "
        "sampling. Without it, popular nodes, which are sampled more often, are pushed towards low scores. Only for "
        "the losses softmax and bce.",
    )
    self_negatives: bool = Field(
        False,
        description="(ours) Add each query's own node to its negatives, for relations with both ends in one table. "
        "Sampled negatives rarely contain it, so without this option the node itself, as the most similar vector, "
        "outranks the right answers. Do not use it if nodes have edges to themselves.",
    )
    full_softmax: bool = Field(
        False,
        description="(ours) Weight the sampled negatives as if they were all rows of their table, which estimates the "
        "softmax over the table. Without it, a likely answer soon beats the few sampled negatives and its gradient "
        "vanishes. Only for the loss softmax.",
    )
    chunk_size: BatchSize | None = Field(
        None,
        description="(ours) Number of positives that share negatives, so that their scores are one matrix product. At "
        "most the batch size. Default: the batch size, up to 1000.",
    )
    shuffle_buffer: int = Field(
        4_194_304,
        gt=0,
        lt=2**31,
        description="(ours) Number of edges shuffled in memory at once, about 28 bytes each. Row groups are shuffled "
        "first. A split of at most this many edges is shuffled completely.",
    )
    remainder: Literal["short", "drop"] = Field(
        "short",
        description="(ours) How to treat the edges at the end of an epoch that do not fill a step on all ranks: "
        "`short` takes a shorter last step, `drop` skips them. Either way, all ranks take the same number of steps.",
    )

    @model_validator(mode="after")
    def _check_negatives(self) -> TrainData:
        if self.in_batch_negatives + self.global_negatives == 0:
            raise ValueError("in_batch_negatives and global_negatives are both 0; set at least one of them")
        if self.chunk_size is not None and self.chunk_size > self.per_replica_batch_size:
            raise ValueError(
                f"chunk_size: {self.chunk_size} exceeds per_replica_batch_size, which is "
                f"{self.per_replica_batch_size}; lower it or remove it"
            )
        if self.global_negatives_power and not self.global_negatives:
            raise ValueError("global_negatives_power: has no effect without global_negatives; remove it")
        if self.logq_correction and not (self.in_batch_negatives or self.global_negatives_power):
            raise ValueError(
                "logq_correction: has no effect on uniform negatives; remove it, or set in_batch_negatives or "
                "global_negatives_power"
            )
        return self

    @property
    def positives_per_chunk(self) -> int:
        """The maximum number of positives that share negatives."""
        return self.chunk_size or min(1000, self.per_replica_batch_size)

    @property
    def needs_frequencies(self) -> bool:
        """Whether negatives depend on the nodes' training degrees."""
        return self.logq_correction or self.global_negatives_power > 0
