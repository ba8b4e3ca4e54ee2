"""The section `evaluation`: how the result is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from twhin_core import sizes
from twhin_core.config.section import Section


class Gate(Section):
    """Bounds of one metric."""

    min: float | None = Field(None, description="Smallest value that passes.")
    max: float | None = Field(None, description="Largest value that passes.")
    max_drop: float | None = Field(
        None, ge=0, description="By how much it may be below that of `evaluation.previous`; 0: not at all."
    )

    @model_validator(mode="after")
    def _some_bound(self) -> Gate:
        if self.min is None and self.max is None and self.max_drop is None:
            raise ValueError("needs min, max or max_drop")
        return self


class Evaluation(Section):
    """Filtered ranking of held-out edges, exact or among sampled candidates."""

    split: Literal["test", "validation"] = Field("test", description="Which held-out edges are ranked.")
    hits_at: list[PositiveInt] = Field([1, 3, 10], min_length=1, description="The k of hits@k.")
    recall_at: list[PositiveInt] = Field([10, 20, 50], min_length=1, description="The k of recall@k and ndcg@k.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Vectors are rounded to bf16 before they are multiplied, or not; products are summed in fp32.",
    )
    memory_limit: str = Field(
        "4GB",
        pattern=sizes.PATTERN,
        description="What evaluation may hold beside the libraries: half of it for held-out edges, a quarter for "
        "candidates, a quarter for queries that are ranked at once. A table that fits into its quarter is read once, "
        "a larger one is streamed for each chunk of queries.",
    )
    candidates: PositiveInt | None = Field(
        None,
        description="Ranks each answer among so many nodes drawn from its table, instead of all of them: for tables "
        "that are too large to be ranked exactly. The names of the metrics then begin with `sampled_`.",
    )
    candidates_power: float = Field(
        0.0,
        ge=0,
        description="Candidates are drawn in proportion to (number of training edges at the node)^this; 0 uniformly.",
    )
    degree_buckets: list[PositiveInt] = Field(
        [1, 10, 100, 1000],
        min_length=1,
        description="Metrics are also given by the number of training edges of the query's node and of the answer, in "
        "buckets that begin at these.",
    )
    bootstrap: int = Field(300, ge=20, description="Resamples of the 95 % intervals.")
    previous: str | None = Field(
        None,
        description="Run root of an earlier version, whose newest checkpoint ranks the same edges for comparison.",
    )
    seed: int = Field(0, ge=0, description="Seeds the random baseline, sampled candidates and the bootstrap.")
    gates: dict[str, Gate] = Field(
        default_factory=dict,
        description="Bounds that must hold before export, by metric: `test.all.mrr: {min: 0.1}`, "
        "`test.follows.hits@10`, `test.degrees.query.0.mrr`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Evaluation:
        if self.candidates_power and self.candidates is None:
            raise ValueError("candidates_power: has no effect without candidates; leave it out")
        if sorted(set(self.degree_buckets)) != self.degree_buckets:
            raise ValueError(f"degree_buckets: {self.degree_buckets} must ascend")
        for path, gate in self.gates.items():
            if gate.max_drop is not None and self.previous is None:
                raise ValueError(f"gates.{path}.max_drop: needs evaluation.previous, the run to compare with")
        return self
