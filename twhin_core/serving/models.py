"""What requests and answers look like: the models of the OpenAPI schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twhin_core.config.numbers import PriorWeight
from twhin_core.schema import Side

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
K = Annotated[int, Field(ge=1, description="How many to answer for each id.")]
Ids = Annotated[list[str], Field(min_length=1, description="Ids as in the raw files.")]
ByIndex = Annotated[
    bool | None,
    Field(
        description="true: the exported faiss index, whatever it ranks by; false: compare all vectors. Default: the "
        "index where it ranks as the comparison would."
    ),
]


Prior = Annotated[
    PriorWeight | None,
    Field(
        description="The weight of the popularity prior in scores; 0 leaves it out. Default: as exported, or else as "
        "trained.",
    ),
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NeighborsRequest(Request):
    """The nodes that score highest for each of some nodes, as `twhin neighbors` finds them."""

    table: str = Field(description="The table of the nodes.")
    ids: Ids
    k: K = 10
    relation: str | None = Field(
        None,
        description="Rank the nodes at its other end by the model's score. Default: rank the nodes of the same table "
        "by cosine.",
    )
    side: Side | None = Field(
        None, description="The end of the relation to ask for: `rhs` for nodes at its lhs (the default), or `lhs`."
    )
    exclude: list[str] = Field([], description="Relations: leaves out the nodes that their known edges lead to.")
    index: ByIndex = None
    prior: Prior = None


class RecommendQuery(Request):
    """The best nodes of a relation's rhs table for each of some users, without those that they have an edge to."""

    relation: str
    ids: Ids
    k: K = 10
    exclude: list[str] | None = Field(
        None,
        description="Relations whose known edges are left out. Default: what the run's section `recommend` says, or "
        "else the relation itself. In a body, [] leaves nothing out.",
    )
    index: ByIndex = None
    prior: Prior = None


class Pair(Request):
    lhs: str
    rhs: str


class Edge(Pair):
    relation: str
    weight: Positive = 1.0


class RecommendRequest(RecommendQuery):
    """As `RecommendQuery`, also for users that were not trained."""

    ids: list[str] = Field([], description="Ids as in the raw files.")
    edges: list[Edge] = Field(
        [],
        description="Edges that are younger than the run. Users that were not trained are embedded by theirs, as "
        "`/embed` does, and need not be in `ids`. What edges of a relation in `exclude` lead to is left out, for all "
        "users.",
    )

    @model_validator(mode="after")
    def _check_users(self) -> RecommendRequest:
        if not self.ids and not self.edges:
            raise ValueError("ids: name a user, or give edges of one")
        return self


class ScoreRequest(Request):
    """The model's score of edges."""

    relation: str
    pairs: list[Pair] = Field(min_length=1)
    side: Side = Field("rhs", description="With `model.reciprocal` or a prior, the end that the score asks for.")
    prior: Prior = None


class ScoreQuery(Request):
    """As `ScoreRequest`, for one edge."""

    relation: str
    lhs: str
    rhs: str
    side: Side = "rhs"
    prior: Prior = None


class EmbedRequest(Request):
    """Vectors of nodes that were not trained, from their edges to nodes that were, as `twhin embed` computes them."""

    table: str = Field(description="The table of the nodes to embed.")
    edges: list[Edge] = Field(min_length=1)
    method: Literal["fit", "mean"] = Field(
        "fit",
        description="fit: a few steps of the training loss; mean, which is faster: the mean of what the edges predict.",
    )
    with_known: bool = Field(False, description="Embed trained nodes too, by these edges alone.")


class Served(BaseModel):
    version: str | None = Field(description="Of the series that is served; null for a run root.")
    step: int = Field(description="The training step of the vectors.")


class Scored(BaseModel):
    id: str
    score: float


class Listed(BaseModel):
    id: str
    found: list[Scored] = Field(description="Best first.")


class FoundAnswer(Served):
    by: str = Field(description="What the score is.")
    answers: list[Listed] = Field(description="In the order of the ids that were asked for, then of new users.")
    unknown: list[str] = Field(description="Ids that the tables do not have.")


class ScoredPair(BaseModel):
    lhs: str
    rhs: str
    score: float | None = Field(description="null if one of the ids is unknown.")


class ScoreAnswer(Served):
    by: str = Field(description="What the score is.")
    scores: list[ScoredPair]


class Embedded(BaseModel):
    id: str
    edges: int = Field(description="How many of its edges were used.")
    embedding: list[float]


class EmbedAnswer(Served):
    vectors: list[Embedded] = Field(description="Sorted by id: nodes that have an edge to a trained node.")
    unknown: list[str] = Field(description="Ids at the other ends that are no trained nodes.")


class Health(Served):
    status: Literal["ok"] = "ok"


class Error(BaseModel):
    """What every error looks like."""

    error: str = Field(description="One line.")
