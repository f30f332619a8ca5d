# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Colours for classes that have none."""

from __future__ import annotations

import numpy as np


def distinct_colours(count: int) -> list[list[int]]:
    """Colours that are easily told apart.

    Args:
        count: Number of colours.

    Returns:
        RGB, 0 to 255: matplotlib's tab10 or tab20 as far as they reach, else hues around the
        circle.
    """
    from matplotlib import colormaps

    if count <= 20:
        colours = colormaps['tab10' if count <= 10 else 'tab20'](range(count))
    else:
        colours = colormaps['hsv'](np.arange(count) / count)
    return [[round(255 * float(value)) for value in colour[:3]] for colour in colours]
