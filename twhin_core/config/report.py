"""The section `report`: what the report shows beside the results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin_core.config.numbers import Name
from twhin_core.config.section import Section

Price = Annotated[float, Field(ge=0, le=1e9)]
"""Of an hour."""
StageName = Literal["prepare", "train", "evaluate", "export", "recommend"]


class Costs(Section):
    """Prices of an hour, from which the report computes what each stage cost.

    A machine costs what `machines` says of its stage, or else `machine`, and each of its GPUs what `accelerators` says
    of it.
    """

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(description="Code of the currency: `EUR`.")
    machine: Price | None = Field(
        None, description="Of a machine of any stage, without the GPUs that `accelerators` names. Default: unknown."
    )
    machines: dict[StageName, Price] = Field({}, description="Of a machine, by stage, where it is not `machine`.")
    accelerators: dict[Name, Price] = Field(
        {},
        description="Of one GPU, by its name in `durations/`: `{NVIDIA H200: 4}`. Default: in the machine's price.",
    )

    @model_validator(mode="after")
    def _check_prices(self) -> Costs:
        if self.machine is None and not self.machines and not self.accelerators:
            raise ValueError("needs a price: set machine, machines or accelerators")
        return self

    def per_hour(self, stage: str, gpus: list[str]) -> float | None:
        """The price of an hour of a machine with `gpus`; None if one of its prices is unknown."""
        prices = {str(name): price for name, price in self.machines.items()}
        parts = [prices.get(stage, self.machine)]
        if self.accelerators and gpus:
            of_gpus = [self.accelerators.get(name) for name in gpus]
            parts = of_gpus if parts == [None] else parts + of_gpus
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class Report(Section):
    """What the report shows beside the results."""

    costs: Costs | None = Field(None, description="Prices, for a table of costs by stage. Default: no table.")
