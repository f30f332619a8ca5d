# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What a verifier has to say about a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

#: Integer that stands for a score of 1.
FULL_SCORE = 255


class Region(NamedTuple):
    """One object that a verifier found.

    Attributes:
        label: Class id.
        box: left, top, right, bottom in pixels of the tile; pixel areas are continuous, the
            top-left pixel covers [0, 1) x [0, 1).
        score: In [0, 1].
        name: What the verifier called it.
    """

    label: int
    box: tuple[float, float, float, float]
    score: float
    name: str


@dataclass(frozen=True)
class Evidence:
    """Scores of all classes over a tile, on a grid of the tile's size or a coarser one.

    Evidence is made once, on the stored tile, neither augmented nor padded. It lives on the host.

    Attributes:
        scores: Shape (K, h, w), uint8, 0 to 255 for [0, 1]. Scores are the verifier's own, never a
            softmax of painted constants; they need not add up to 1.
        seen: Shape (h, w), bool: where the verifier has said anything. What is not seen is left
            alone, whatever the scores are.
        size: Height and width of the tile in pixels.
        answer: What the verifier answered, readable by people.
        regions: What it found, if it works by objects.
        dropped: Parts of the answer that could not be used, each with the reason.
        truncated: Whether the answer ended before it was complete.
        region_ids: Which class-free region each pixel of the tile belongs to, counted from 1, 0 for
            none; shape (H, W), unsigned integers. Of a ``RegionProposer``, which has no scores (K =
            0).

    Raises:
        ValueError: Shapes or types do not fit.
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
        """Highest number of a region, of the map where there is one, else of what was found."""
        return len(self.regions) if self.region_ids is None else int(self.region_ids.max())


def covered_pixels(box: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """Rows and columns of the pixels whose centres a box covers.

    Args:
        box: left, top, right, bottom in pixels of the tile.

    Returns:
        Rows and columns, none of them negative.
    """
    left, top, right, bottom = (max(0, math.ceil(side - 0.5)) for side in box)
    return slice(top, bottom), slice(left, right)


def quantise(scores: np.ndarray) -> np.ndarray:
    """Turn scores in [0, 1] into what :class:`Evidence` keeps.

    Args:
        scores: Any shape, float; values outside [0, 1] are clipped.

    Returns:
        The same shape, uint8, rounded to the nearest of 256 steps.
    """
    return np.rint(np.clip(scores, 0.0, 1.0) * FULL_SCORE).astype(np.uint8)
