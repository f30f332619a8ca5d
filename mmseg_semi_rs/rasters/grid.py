# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Overlapping windows along one side of an image, and how much each counts at each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .windows import window_starts


@dataclass(frozen=True)
class Axis:
    """Windows that cover one side, with weights that add up to 1 at each pixel.

    A window counts fully in its middle. Towards a neighbour, of the pixels that both see, the outer
    quarter does not count (a network sees too little around it), over the half in between the
    weight grows linearly, and the inner quarter counts fully. At the ends of the side, where there
    is no neighbour, a window counts fully to its edge. The weights of a window in two dimensions
    are the products of those of both axes, so nothing is left to divide by.

    Attributes:
        length: Pixels to cover, at least one window.
        window: Pixels of a window.
        starts: First pixel of each window, growing.
        weights: Shape (len(starts), window), float32, in [0, 1].
    """

    length: int
    window: int
    starts: tuple[int, ...]
    weights: np.ndarray

    @classmethod
    def cover(cls, length: int, window: int, overlap: int) -> Axis:
        """Lay windows; the last one is moved inside.

        Args:
            length: Pixels to cover; a side shorter than a window is covered by one window, which
                sticks out.
            window: Pixels of a window.
            overlap: Pixels that two neighbours share at least, in [0, window).

        Raises:
            ValueError: If the overlap is out of its range.
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
        """Numbers of the windows that count somewhere in ``begin <= pixel < end``."""
        counting = [
            index
            for index, (start, weight) in enumerate(zip(self.starts, self.weights, strict=True))
            if weight[max(begin - start, 0) : max(end - start, 0)].any()
        ]
        return range(counting[0], counting[-1] + 1)


def _ramp(overlap: int) -> np.ndarray:
    """Weights over an overlap, from the edge inwards, shape (overlap,)."""
    centres = (np.arange(overlap) + 0.5) / max(overlap, 1)
    return np.clip(2 * centres - 0.5, 0.0, 1.0)
