"""The section `evaluation`: metrics and quality gates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin_core.config.numbers import BatchSize, Count, Drop, Exponent, Few, Figure, Location, Memory, Scale, Seed
from twhin_core.config.probe import Probe
from twhin_core.config.section import Section

ListBaseline = Literal["popularity", "random", "item-item"]
Baseline = Literal[ListBaseline, "majority", "degree", "features"]


class Gate(Section):
    """Bounds on one metric."""

    min: Figure | None = Field(None, description="Smallest value that passes.")
    max: Figure | None = Field(None, description="Largest value that passes.")
    max_drop: Drop | None = Field(
        None,
        description="Largest drop below the value of `evaluation.previous` that passes; for figures of the data, below "
        "that of `prepare.previous`, as a share of it.",
    )
    at_least_baseline: Baseline | None = Field(
        None,
        description="Passes only a value that is at least that of this baseline in the same run: `popularity` or "
        "`random`; for lists, what `evaluation.lists.baselines` names; for the probe, `majority`, `degree` or "
        "`features`.",
    )
    factor: Scale | None = Field(
        None, description="Times which the value of `at_least_baseline` must be reached: 1.1 asks for a tenth more."
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Gate:
        if self.factor is not None and self.at_least_baseline is None:
            raise ValueError("factor: needs at_least_baseline, whose value it multiplies")
        if all(of is None for of in (self.min, self.max, self.max_drop, self.at_least_baseline)):
            raise ValueError("needs min, max, max_drop or at_least_baseline")
        return self


class Drift(Section):
    """What is compared with `evaluation.previous`, for those who use the vectors of both versions."""

    nodes: Few = Field(1000, description="Nodes sampled per table, and held-out queries and edges per relation.")
    k: Few = Field(10, le=1000, description="Length of the lists of neighbors and answers that are compared.")


class Lists(Section):
    """How lists of candidates are measured: those that `recommend` would make for users with held-out edges."""

    k: list[Annotated[int, Field(gt=0, le=1000)]] = Field(
        [10, 50, 100],
        min_length=1,
        max_length=20,
        description="The lengths at which lists are measured. One above the `k` of a relation counts as that.",
    )
    users: Count | None = Field(
        10_000, description="Measure so many users of each relation, drawn with `evaluation.seed`; null measures all."
    )
    baselines: list[ListBaseline] = Field(
        ["popularity", "random", "item-item"],
        description="What makes lists for the same users beside the model: the most popular candidates, chance, and "
        "those that were linked to together with the user's own (cosine).",
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Lists:
        if sorted(set(self.k)) != self.k:
            raise ValueError(f"k: must be strictly ascending; got {self.k}")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines: each may be listed once; got {', '.join(self.baselines)}")
        return self

    def at(self, k: int) -> list[int]:
        """The lengths at which lists of `k` candidates are measured."""
        return sorted({min(of, k) for of in self.k})


NOT_COMPARED = {"lists": "lists of earlier versions are not measured", "probe": "earlier versions are not probed"}
"""Sections with figures of their own, in which there is no drop."""


class Evaluation(Section):
    """Filtered ranking of held-out edges, exact or among sampled candidates."""

    split: Literal["test", "validation"] = Field("test", description="The held-out edges to rank.")
    hits_at: list[Few] = Field([1, 3, 10], min_length=1, max_length=100, description="The values of k for hits@k.")
    recall_at: list[Few] = Field(
        [10, 20, 50], min_length=1, max_length=100, description="The values of k for recall@k and ndcg@k."
    )
    headline: str = Field(
        "mrr_rhs",
        min_length=1,
        max_length=40,
        description="The figure that the log, the summary and the report put first: `mrr_rhs` if what you retrieve is "
        "the rhs, `mrr_lhs` for the lhs, `mrr` for both; or another metric, such as `recall@20` or `hits@10_rhs`.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Multiply vectors as they are, or rounded to bf16. Products are summed in fp32 either way."
    )
    memory_limit: Memory = Field(
        "4GB",
        description="Memory for evaluation, excluding the libraries: half for held-out edges, a quarter for candidates "
        "and a quarter for the queries ranked at once. A table that fits into its quarter is read once; a larger one "
        "is streamed for each chunk of queries.",
    )
    candidates: BatchSize | None = Field(
        None,
        description="Rank each answer among this many sampled nodes of its table instead of all, for tables too large "
        "to rank exactly. The metrics' names then start with `sampled_`.",
    )
    candidates_power: Exponent = Field(
        0.0,
        description="Sample candidates in proportion to (training degree of the node)^this; 0 samples uniformly.",
    )
    degree_buckets: list[Count] = Field(
        [1, 10, 100, 1000],
        min_length=1,
        max_length=100,
        description="Also report metrics by training degree of the query's node and of the answer, in buckets that "
        "start at these degrees.",
    )
    bootstrap: int = Field(300, ge=20, le=100_000, description="Number of bootstrap resamples for the 95 % intervals.")
    previous: Location | None = Field(
        None,
        description="Run root of an earlier version, or a series for its published version; its newest checkpoint "
        "ranks the same edges for comparison.",
    )
    drift: Drift = Field(Drift(), description="How the drift from `evaluation.previous` is measured.")
    lists: Lists | None = Field(
        None,
        description="Also measure the lists of candidates of each relation in `recommend`; `{}` measures with the "
        "defaults.",
    )
    probe: Probe | None = Field(
        None,
        description="Also measure what the vectors say of a label: see [probe](probe.md).",
    )
    seed: Seed = Field(0, description="Seeds the random baselines, all samples and the bootstrap.")
    gates: dict[str, Gate] = Field(
        default_factory=dict,
        description="Bounds that metrics must meet before export: `test.all.mrr: {min: 0.1}`, "
        "`test.follows.hits@10: {max_drop: 0.01}`, `test.degrees.query.0.mrr: {min: 0.05}`, "
        "`lists.follows.recall@50: {at_least_baseline: item-item}`. Those on the data must "
        "be met before training: `data.edges: {max_drop: 0.2}`, `data.follows.psi: {max: 0.25}`.",
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Evaluation:
        if self.candidates_power and self.candidates is None:
            raise ValueError("candidates_power: has no effect without candidates; remove it")
        if sorted(set(self.degree_buckets)) != self.degree_buckets:
            raise ValueError(f"degree_buckets: must be strictly ascending; got {self.degree_buckets}")
        return self

    @model_validator(mode="after")
    def _check_gates(self) -> Evaluation:
        for path, gate in self.gates.items():
            if gate.max_drop is not None and self.previous is None and not path.startswith("data."):
                raise ValueError(f"gates.{path}.max_drop: needs evaluation.previous, the run to compare with")
            for section, why_no_drop in NOT_COMPARED.items():
                if path.startswith(f"{section}."):
                    if getattr(self, section) is None:
                        raise ValueError(f"gates.{path}: needs evaluation.{section}")
                    if gate.max_drop is not None:
                        raise ValueError(f"gates.{path}.max_drop: {why_no_drop}; set min")
            if gate.at_least_baseline is not None:
                self._check_baseline(f"gates.{path}.at_least_baseline", path, gate.at_least_baseline)
        return self

    def _check_baseline(self, key: str, path: str, name: Baseline) -> None:
        """Raises ValueError unless the baseline `name` has the figure that a gate names."""
        if path.startswith("lists."):
            assert self.lists is not None
            if name not in self.lists.baselines:
                raise ValueError(f"{key}: {name} is not computed; add it to evaluation.lists.baselines")
            return
        computed: tuple[Baseline, ...] = ("popularity", "random")
        if path.startswith("probe."):
            computed = ("majority", "degree")
            if self.probe is not None and self.probe.features:
                computed += ("features",)
        elif path.startswith(f"{self.split}.degrees."):
            computed = ("popularity",)
        elif not path.startswith(f"{self.split}.") or path.endswith("auc_reference"):
            raise ValueError(f"{key}: no baseline has this figure; set min or max")
        if name not in computed:
            hint = "; it makes lists, whose figures are lists.<relation>.<metric>" if name == "item-item" else ""
            raise ValueError(f"{key}: {name} is not computed for this figure, as {' and '.join(computed)} is{hint}")
