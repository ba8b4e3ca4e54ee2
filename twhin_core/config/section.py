"""The base class of all config sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the YAML file. Unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def exactly_one(self, *names: str) -> str:
        """The only field of `names` that is set. Raises ValueError if none or several are."""
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(names)}; got {', '.join(given) or 'none'}")
        return given[0]
