"""The section `runtime`: numerical precision, and the log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from twhin_core.config.section import Section


class Runtime(Section):
    """Numerical precision, and the log."""

    enable_tensorfloat32: bool = Field(
        False, description="Allow TF32 in fp32 matrix products on GPUs that support it. No effect on a CPU."
    )
    enable_amp: bool = Field(
        False,
        description="Compute the matrix products of training steps in bf16 (autocast). Weights, optimizers and the "
        "loss stay in fp32, and so do validation and evaluation.",
    )
    log_format: Literal["text", "json"] | None = Field(
        None,
        description="(ours) How the log is written to stderr; `json` is one object per line. `TWHIN_LOG_FORMAT` and "
        "`--log-format` take precedence. Default: text.",
    )
