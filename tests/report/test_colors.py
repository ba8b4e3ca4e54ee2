"""The colors of a chart can be told apart, also by readers who see fewer of them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import twhin_core.report

CSS = Path(twhin_core.report.__file__).parent / "templates/colors.css"
GROUPS = [
    ["result", "other", "planted"],
    ["first", "second", "third", "fourth"],
    ["table-0", "table-1", "table-2", "table-3"],
]
# What a missing kind of cone does to linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
SIGHT = {
    "all": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
DISTINCT = 20.0
"""Of CIE 1976 color difference; 2 can just be seen side by side."""


def lab(color: str, sight: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """CIELAB of a `#rrggbb` as it is seen."""
    parts = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    white = TO_XYZ.sum(1)
    ratio = TO_XYZ @ np.clip(np.array(sight) @ linear, 0, 1) / white
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_of_a_chart_are_told_apart(scheme: str, sight: str) -> None:
    light, dark = CSS.read_text().split("@media")
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", light if scheme == "light" else dark))
    for group in GROUPS:
        for one, other in itertools.combinations(group, 2):
            difference = np.linalg.norm(lab(colors[one], SIGHT[sight]) - lab(colors[other], SIGHT[sight]))
            assert difference > DISTINCT, (one, other)
