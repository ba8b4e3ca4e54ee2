"""What vectors say of a label: the figures of each input, and what vectors add to those without them."""

from __future__ import annotations

from dataclasses import dataclass

from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.probe_figures import ACCURACY, AUC
from twhin_core.evaluation.probe_names import BOTH, DEGREE, FEATURES, MAJORITY, PROBE, VECTORS, Probed
from twhin_core.report.figures import Table
from twhin_core.sizes import count_of

TITLES = {
    MAJORITY: "the most frequent class",
    DEGREE: "training degree",
    VECTORS: "vectors",
    FEATURES: "your features",
    BOTH: "your features and vectors",
}
GAINS = {VECTORS: "vectors over training degree", BOTH: "features and vectors over features alone"}
CLASSES_SHOWN = 10
INTERVAL = "95\u00a0% interval"


@dataclass(frozen=True)
class ProbePanel:
    """The content of the section."""

    label: str
    is_mean: bool
    """Whether there are more than two classes."""
    classes: Table
    """Those with the most nodes."""
    fitted: str
    held_out: str
    left_out: list[str]
    """What labels were not used, in words."""
    figures: Table
    gains: Table


def collect(metrics: Metrics) -> ProbePanel | None:
    """None without `evaluation.probe`."""
    found: Probed | None = metrics.get(PROBE)
    if found is None:
        return None
    classes = sorted(found["classes"].items(), key=lambda of: -of[1])
    counts = found["counts"]
    left_out = {
        f"{counts['unmatched']:,} are of ids that the table does not have": counts["unmatched"],
        f"{counts['incomplete']:,} rows lack an id or a label": counts["incomplete"],
        f"{counts['repeated']:,} are of nodes that have another": counts["repeated"],
        f"{counts['unused']:,} are beyond the most nodes that are used": counts["unused"],
    }
    return ProbePanel(
        label=f"{found['column']} of {found['table']}",
        is_mean=len(classes) > 2,
        classes=_classes(classes),
        fitted=f"{found['fitted']:,}",
        held_out=f"{found['held_out']:,}",
        left_out=[text for text, count in left_out.items() if count],
        figures=_figures(found),
        gains=_gains(found),
    )


def _classes(classes: list[tuple[str, int]]) -> Table:
    rows = [[name, f"{nodes:,}"] for name, nodes in classes[:CLASSES_SHOWN]]
    if others := classes[CLASSES_SHOWN:]:
        rows.append([count_of(len(others), "other"), f"{sum(nodes for _, nodes in others):,}"])
    return Table(["class", "labeled nodes"], rows)


def _figures(found: Probed) -> Table:
    rows = []
    for name, of in found["figures"].items():
        texts = [(f"{of[key]:.4f}", _interval(found["intervals"][name][key], ".4f")) for key in (AUC, ACCURACY)]
        rows.append([TITLES[name], *texts[0], *texts[1]])
    return Table(["predicted from", AUC, INTERVAL, ACCURACY, INTERVAL], rows)


def _gains(found: Probed) -> Table:
    rows = []
    for name, of in found["differences"].items():
        texts = [(f"{of[key][0]:+.4f}", _interval(of[key][1:], "+.4f")) for key in (AUC, ACCURACY)]
        rows.append([GAINS[name], *texts[0], *texts[1]])
    return Table(["gain of", AUC, INTERVAL, ACCURACY, INTERVAL], rows)


def _interval(bounds: list[float], spec: str) -> str:
    low, high = (format(bound, spec) for bound in bounds)
    return f"{low} – {high}"
