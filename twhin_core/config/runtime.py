"""The section `runtime`: numerical precision."""

from __future__ import annotations

from pydantic import Field

from twhin_core.config.section import Section


class Runtime(Section):
    """Numerical precision."""

    enable_tensorfloat32: bool = Field(
        False, description="Allow TF32 in fp32 matrix products on GPUs that support it. No effect on a CPU."
    )
    enable_amp: bool = Field(
        False,
        description="Compute the matrix products of training steps in bf16 (autocast). Weights, optimizers and the "
        "loss stay in fp32, and so do validation and evaluation.",
    )
