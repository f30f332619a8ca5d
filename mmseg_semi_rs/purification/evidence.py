# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evidence: what a verifier says about a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

#: Integer that represents a score of 1.
FULL_SCORE = 255


class Region(NamedTuple):
    """One object that a verifier found.

    Attributes:
        label: Class id.
        box: Left, top, right, bottom in pixels of the tile, as continuous coordinates: the top-left
            pixel covers [0, 1) x [0, 1).
        score: Score in [0, 1].
        name: The verifier's name for it.
    """

    label: int
    box: tuple[float, float, float, float]
    score: float
    name: str


@dataclass(frozen=True)
class Evidence:
    """Scores of all classes over a tile, on a grid of the tile's size or a coarser one.

    Evidence is made once, for the stored tile, neither augmented nor padded, and stays on the host.

    Attributes:
        scores: Shape (K, h, w), uint8, 0 to 255 for [0, 1]. These are the verifier's own scores,
            never a softmax of painted constants, and need not add up to 1.
        seen: Where the verifier made a statement, shape (h, w), bool. Other places are left alone,
            whatever their scores.
        size: Height and width of the tile in pixels.
        answer: The verifier's answer in readable form.
        regions: The objects found, if the verifier works by objects.
        dropped: Parts of the answer that could not be used, each with the reason.
        truncated: Whether the answer ended before it was complete.
        region_ids: Class-free region of each pixel, counted from 1, 0 for none, shape (H, W),
            unsigned integers. Set by a ``RegionProposer``, which has no scores (K = 0).

    Raises:
        ValueError: If shapes or types do not fit.
    """

    scores: np.ndarray
    seen: np.ndarray
    size: tuple[int, int]
    answer: str = ''
    regions: tuple[Region, ...] = ()
    dropped: tuple[str, ...] = ()
    truncated: bool = False
    region_ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        fits = (
            self.scores.ndim == 3
            and self.scores.dtype == np.uint8
            and self.seen.dtype == np.bool_
            and self.seen.shape == self.scores.shape[1:]
            and 0 < self.seen.shape[0] <= self.size[0]
            and 0 < self.seen.shape[1] <= self.size[1]
        )
        if not fits:
            raise ValueError(
                f'Evidence for a tile of {self.size} needs scores (K, h, w) uint8 and seen (h, w) '
                f'bool on a grid no finer than the tile, got {self.scores.shape} '
                f'{self.scores.dtype} and {self.seen.shape} {self.seen.dtype}.'
            )

        ids = self.region_ids
        if ids is not None and (ids.shape != tuple(self.size) or ids.dtype.kind != 'u'):
            raise ValueError(
                f'Regions of a tile of {self.size} need a map of unsigned integers of that size, '
                f'got {ids.shape} {ids.dtype}.'
            )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.scores.shape[0]

    @cached_property
    def num_regions(self) -> int:
        """Highest region number in ``region_ids`` or, without it, the number of ``regions``."""
        return len(self.regions) if self.region_ids is None else int(self.region_ids.max())


def covered_pixels(box: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """Rows and columns of the pixels whose centres a box covers.

    Args:
        box: Left, top, right, bottom in pixels of the tile.

    Returns:
        Slices of rows and columns, without negative indices.
    """
    left, top, right, bottom = (max(0, math.ceil(side - 0.5)) for side in box)
    return slice(top, bottom), slice(left, right)


def quantise(scores: np.ndarray) -> np.ndarray:
    """Convert scores in [0, 1] to the integers that :class:`Evidence` stores.

    Args:
        scores: Any shape, float; values outside [0, 1] are clipped.

    Returns:
        The same shape, uint8, rounded to the nearest of 256 steps.

    Raises:
        ValueError: If a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError(
            'A verifier gives scores that are no numbers (NaN), as where its weights are damaged '
            "or half precision overflows: correct the weights, or set dtype='float32'."
        )
    return np.rint(np.clip(scores, 0.0, 1.0) * FULL_SCORE).astype(np.uint8)
