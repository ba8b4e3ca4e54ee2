"""The section `runtime`: how the arithmetic runs."""

from __future__ import annotations

from pydantic import Field

from twhin_core.config.section import Section


class Runtime(Section):
    """How the arithmetic runs."""

    enable_tensorfloat32: bool = Field(
        False, description="Allow TF32 in fp32 matrix products on GPUs that have it; no effect on a CPU."
    )
    enable_amp: bool = Field(
        False,
        description="Matrix products of the training steps in bf16, by autocast; weights, optimizers and the loss stay "
        "as they are, and so do validation and evaluation.",
    )
