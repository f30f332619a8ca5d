# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Overlapping windows along one side of an image, and their blending weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .windows import window_starts


@dataclass(frozen=True)
class Axis:
    """Windows that cover one side of an image, with weights that sum to 1 at each pixel.

    Over the overlap of two windows, the outer quarter of each window has weight 0 (the network has
    too little context there), the weight rises linearly over the middle half, and is full from the
    inner quarter on. At the ends of the side, where there is no neighbour, a window has full weight
    up to its edge. The weights in two dimensions are the products of those of both axes, so no
    normalisation is needed.

    Attributes:
        length: Length to cover in pixels, at least one window.
        window: Length of a window in pixels.
        starts: First pixel of each window, ascending.
        weights: Shape (len(starts), window), float32, in [0, 1].
    """

    length: int
    window: int
    starts: tuple[int, ...]
    weights: np.ndarray

    @classmethod
    def cover(cls, length: int, window: int, overlap: int) -> Axis:
        """Place the windows; the last one is moved inside.

        Args:
            length: Length to cover in pixels. A side shorter than a window is covered by one window
                that extends beyond it.
            window: Length of a window in pixels.
            overlap: Smallest overlap of two neighbours in pixels, in [0, window).

        Raises:
            ValueError: The overlap is out of range.
        """
        if not 0 <= overlap < window:
            raise ValueError(
                f'An overlap of {overlap} px does not fit windows of {window} px: choose one from '
                f'0 to {window - 1}.'
            )
        starts = window_starts(length, window, window - overlap, 'shift')
        length = max(length, window)
        total = np.zeros(length)
        weights = np.ones((len(starts), window))
        rising = _ramp(overlap)
        for start, weight in zip(starts, weights, strict=True):
            if start > 0:
                weight[:overlap] = rising
            if start + window < length:
                weight[window - overlap :] *= rising[::-1]
            total[start : start + window] += weight
        for start, weight in zip(starts, weights, strict=True):
            weight /= total[start : start + window]
        return cls(length, window, tuple(starts), weights.astype(np.float32))

    def between(self, begin: int, end: int) -> range:
        """Return the numbers of the windows with weight somewhere in ``begin <= pixel < end``."""
        counting = [
            index
            for index, (start, weight) in enumerate(zip(self.starts, self.weights, strict=True))
            if weight[max(begin - start, 0) : max(end - start, 0)].any()
        ]
        return range(counting[0], counting[-1] + 1)


def _ramp(overlap: int) -> np.ndarray:
    """Return unnormalised weights over an overlap, from the edge inwards, (overlap,)."""
    centres = (np.arange(overlap) + 0.5) / max(overlap, 1)
    return np.clip(2 * centres - 0.5, 0.0, 1.0)
