# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Surfaces of the fabricated scenes and how they look."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Material(NamedTuple):
    """Reflectance of a surface.

    Attributes:
        first: RGB in [0, 1] where the layout's ``variant`` is 0.
        second: The same where it is 1.
        fine: Relative contrast of the texture at 0.3 m.
        medium: The same at 1 m.
        coarse: The same at 8 m.
    """

    first: tuple[float, float, float]
    second: tuple[float, float, float]
    fine: float = 0.03
    medium: float = 0.03
    coarse: float = 0.03


MATERIALS: dict[str, Material] = {
    'asphalt': Material((0.27, 0.27, 0.29), (0.36, 0.35, 0.34), 0.05, 0.05, 0.08),
    'concrete': Material((0.46, 0.45, 0.43), (0.58, 0.57, 0.54), 0.05, 0.06, 0.08),
    'paving': Material((0.42, 0.35, 0.31), (0.52, 0.46, 0.40), 0.09, 0.06, 0.06),
    'marking': Material((0.70, 0.70, 0.68), (0.80, 0.80, 0.78), 0.05, 0.10, 0.0),
    'tile_roof': Material((0.50, 0.25, 0.17), (0.33, 0.22, 0.19), 0.07, 0.06, 0.03),
    'dark_roof': Material((0.22, 0.22, 0.24), (0.34, 0.32, 0.31), 0.05, 0.05, 0.03),
    'flat_roof': Material((0.36, 0.35, 0.34), (0.66, 0.65, 0.62), 0.04, 0.06, 0.10),
    'fixture': Material((0.55, 0.55, 0.56), (0.20, 0.20, 0.22), 0.05, 0.0, 0.0),
    'grass': Material((0.22, 0.33, 0.13), (0.33, 0.38, 0.18), 0.10, 0.08, 0.14),
    'meadow': Material((0.30, 0.34, 0.17), (0.42, 0.40, 0.24), 0.17, 0.16, 0.16),
    'bush': Material((0.15, 0.25, 0.10), (0.24, 0.31, 0.13), 0.22, 0.22, 0.08),
    'leaves': Material((0.13, 0.24, 0.09), (0.25, 0.32, 0.12), 0.20, 0.26, 0.05),
    'needles': Material((0.09, 0.17, 0.10), (0.14, 0.22, 0.12), 0.24, 0.22, 0.05),
    'paint': Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.02, 0.0, 0.0),
    'glass': Material((0.07, 0.08, 0.10), (0.12, 0.13, 0.15), 0.02, 0.0, 0.0),
    'water': Material((0.10, 0.16, 0.16), (0.16, 0.22, 0.19), 0.03, 0.05, 0.12),
    'soil': Material((0.42, 0.33, 0.24), (0.55, 0.46, 0.34), 0.12, 0.14, 0.12),
    'rubble': Material((0.40, 0.37, 0.34), (0.58, 0.54, 0.49), 0.30, 0.28, 0.05),
    'court': Material((0.48, 0.24, 0.17), (0.20, 0.36, 0.27), 0.04, 0.03, 0.04),
    'container': Material((0.16, 0.27, 0.42), (0.48, 0.22, 0.14), 0.05, 0.0, 0.0),
}
MATERIAL_ID = {name: index for index, name in enumerate(MATERIALS)}
CAR_PAINTS = np.array(
    [
        (0.80, 0.80, 0.80),
        (0.62, 0.63, 0.65),
        (0.08, 0.08, 0.09),
        (0.30, 0.31, 0.33),
        (0.50, 0.08, 0.08),
        (0.10, 0.17, 0.38),
    ],
    dtype=np.float32,
)
