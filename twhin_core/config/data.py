"""The sections `train_data`, `validation_data` and `test_data`: edges, and the negatives sampled beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from twhin_core.config.section import Section


class EdgeData(Section):
    """A set of edges."""

    data_root: str | None = Field(
        None,
        description="Glob of Parquet files with columns lhs, rel, rhs (vocabulary indices) and optionally weight; "
        "local or gs://. Left out: the split of that name which `prepare` wrote under the run root.",
    )
    limit: PositiveInt | None = Field(None, description="Use at most this many edges, in data set order.")
    offset: int = Field(0, ge=0, description="Skip this many edges first, in data set order.")


class TrainData(EdgeData):
    """Edges to learn from, and the negatives sampled beside each."""

    per_replica_batch_size: PositiveInt = Field(description="Positive edges a step and rank.")
    in_batch_negatives: int = Field(
        0, ge=0, description="Negatives a positive and side, drawn from the batch's edges of the same relation."
    )
    global_negatives: int = Field(
        0,
        ge=0,
        description="Negatives a positive and side, drawn from the relation's table, which must have as many rows: "
        "uniformly, unless `global_negatives_power` says otherwise.",
    )
    global_negatives_power: float = Field(
        0.0,
        ge=0,
        description="(ours) Global negatives are drawn in proportion to (number of training edges at the node)^this: "
        "0 uniformly, also nodes without an edge; 0.75 as word2vec draws words; 1 as often as edges have the node.",
    )
    logq_correction: bool = Field(
        False,
        description="(ours) Takes from each score the logarithm of how much likelier than uniformly the node is to be "
        "drawn, so that frequent nodes, which are drawn more often, are not learned to score low. For the losses "
        "softmax and bce.",
    )
    self_negatives: bool = Field(
        False,
        description="(ours) The node that is asked about is one more negative of its query, where both ends of the "
        "relation are in one table. With sampled negatives few queries meet their own node, whose vector is the most "
        "similar of all, and it is then ranked before the right ones. Not for edges from a node to itself.",
    )
    full_softmax: bool = Field(
        False,
        description="(ours) The negatives stand for all rows of their table, and weigh as much as these would, so that "
        "the softmax over the table is estimated. Without, a likely answer soon wins against the few that are drawn, "
        "and has no more to learn. For the loss softmax.",
    )
    chunk_size: PositiveInt | None = Field(
        None,
        description="(ours) Positives that share their negatives, so that scores are one matrix product; at most the "
        "batch. Default: 1000, or the batch where that is smaller.",
    )
    shuffle_buffer: int = Field(
        4_194_304,
        gt=0,
        lt=2**31,
        description="(ours) Edges that are shuffled in memory at once, some 28 bytes each; row groups are shuffled "
        "before. A split with no more edges is shuffled as a whole.",
    )
    remainder: Literal["short", "drop"] = Field(
        "short",
        description="(ours) What becomes of the edges left at the end of an epoch that do not fill a step of all "
        "ranks: a `short` last step, or `drop`, which leaves them out of this epoch. Ranks take as many steps either "
        "way.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainData:
        if self.in_batch_negatives + self.global_negatives == 0:
            raise ValueError("in_batch_negatives and global_negatives are both 0: nothing to tell the edges from")
        if self.chunk_size is not None and self.chunk_size > self.per_replica_batch_size:
            raise ValueError(
                f"chunk_size: {self.chunk_size} is more than the {self.per_replica_batch_size} edges of "
                "per_replica_batch_size; lower it or leave it out"
            )
        if self.global_negatives_power and not self.global_negatives:
            raise ValueError("global_negatives_power: has no effect without global_negatives; leave it out")
        if self.logq_correction and not (self.in_batch_negatives or self.global_negatives_power):
            raise ValueError(
                "logq_correction: has no effect on uniform negatives; leave it out, or set in_batch_negatives or "
                "global_negatives_power"
            )
        return self

    @property
    def positives_per_chunk(self) -> int:
        """The most positives that share their negatives."""
        return self.chunk_size or min(1000, self.per_replica_batch_size)

    @property
    def needs_frequencies(self) -> bool:
        """Whether the negatives depend on how often nodes occur in training edges."""
        return self.logq_correction or self.global_negatives_power > 0
