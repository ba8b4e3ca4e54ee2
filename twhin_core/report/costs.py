"""What the stages cost: the time that they worked times the config's prices."""

from __future__ import annotations

from twhin_core.config import Config
from twhin_core.durations import in_words, machine_seconds, read_durations
from twhin_core.report.figures import Table


def collect(config: Config, root: str) -> Table | None:
    """A row for each stage that has worked, and their sum; None without `report.costs`."""
    costs = config.report.costs
    durations = read_durations(root)
    if costs is None or not durations:
        return None
    rows, known = list[list[str]](), list[float]()
    for stage, of in durations.items():
        hours, price = machine_seconds(of) / 3600, costs.per_hour(stage, of.get("gpus", []))
        if price is not None:
            known.append(hours * price)
        amounts = ["–", "–"] if price is None else [_amount(price), _amount(hours * price)]
        rows.append([stage, in_words(machine_seconds(of)), *amounts])
    total = "all stages" if len(known) == len(rows) else "the stages with a price"
    rows.append([total, "", "", _amount(sum(known))])
    return Table(["stage", "machine time", f"{costs.currency} per hour", costs.currency], rows)


def _amount(amount: float) -> str:
    """With two decimals, and more for what would otherwise look like nothing."""
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}" if amount >= 1e-4 else f"{amount:.1e}"
