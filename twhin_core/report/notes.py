"""The footnotes on metrics and baselines that are easily misread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

PREVIOUS = "previous run"
PLANTED = "planted optimum"


@dataclass(frozen=True)
class Note:
    """A footnote on the figures whose name `is_of` it."""

    title: str
    text: str
    is_of: Callable[[str], bool]


NOTES = (
    Note(
        "popularity",
        "ranks nodes by their number of training edges of the relation. A model that does not beat it has learned only "
        "what is popular.",
        lambda name: name == "popularity",
    ),
    Note("random", "ranks by chance, once; it shows what a figure is worth.", lambda name: name == "random"),
    Note(
        PREVIOUS,
        "is the newest checkpoint of evaluation.previous, which ranks the same edges of the relations that both runs "
        "have.",
        lambda name: name == PREVIOUS,
    ),
    Note(
        PLANTED,
        "is the score of a model that knows how this network was generated. No model can do better, so it is the "
        "measure for the others, not 1. Real data have none.",
        lambda name: name == PLANTED,
    ),
    Note(
        "sampled_",
        "is measured among sampled candidates, and higher than an exact figure. Compare it only with figures from the "
        "same sample, and do not choose a model by small differences in it.",
        lambda name: name.startswith("sampled_"),
    ),
    Note(
        "recall, ndcg",
        "without a suffix are for the rhs only, as in the literature, while other metrics without one are for both "
        "sides. Nodes that a query has in training are not candidates.",
        lambda name: name.removeprefix("sampled_").startswith(("recall@", "ndcg@")) and not name.endswith("_lhs"),
    ),
    Note(
        "amri",
        "is 1 if every answer ranks first and 0 if ranks are as chance would have them, however many candidates there "
        "are. It is a mean of ranks, so a few very bad ones weigh more than they do in the others.",
        lambda name: name.removeprefix("sampled_") == "amri",
    ),
    Note(
        "auc",
        "counts a rank of 100 among 100,000 as nearly perfect, because most candidates are easy. Do not choose a model "
        "by it.",
        lambda name: name.removeprefix("sampled_") == "auc",
    ),
    Note(
        "auc_reference",
        "is unfiltered and compares scores of different queries. It is there to be compared with the reference "
        "implementation, and with nothing else.",
        lambda name: name.removeprefix("sampled_") == "auc_reference",
    ),
)


def collect(names: Sequence[str]) -> list[Note]:
    """The notes on any of these figures and columns, in their order."""
    return [note for note in NOTES if any(map(note.is_of, names))]


def marks(notes: Sequence[Note], names: Sequence[str]) -> dict[str, int]:
    """The number of the footnote of each name that has one; the last applies to it."""
    return {name: number for number, note in enumerate(notes, 1) for name in names if note.is_of(name)}
