# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Score thresholds per class, fitted on held-out labels so that claims are right often enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor

from .evidence import FULL_SCORE, Evidence
from .replay import replay_labelled

_UNITS = ('pixel', 'tile')


@dataclass(frozen=True)
class ClassThresholds:
    """Fitted thresholds; tensors of shape (K,).

    Attributes:
        threshold: Score from which claims of a class count, float32; infinity for an unused class.
        claims: Number of held-out claims at or above it, in pixels or tiles, float64; for an unused
            class, of those at or above the lowest score.
        right: Number of these claims that are right, float64; for tiles the sum of the shares.
        precision: 1 - alpha, the score that claims of a used class get.
    """

    threshold: Tensor
    claims: Tensor
    right: Tensor
    precision: float

    @property
    def used(self) -> Tensor:
        """Which classes are used, shape (K,), bool."""
        return self.threshold.isfinite()

    def apply(self, scores: Tensor) -> Tensor:
        """Calibrate scores: claims that count get the guaranteed precision, all others 0.

        Args:
            scores: Shape (B, K, H, W).

        Returns:
            The same shape, 0 or ``precision``.
        """
        threshold = self.threshold.to(scores.device)[:, None, None]
        return (scores >= threshold).to(scores.dtype) * self.precision

    def table(self, classes: Sequence[str]) -> str:
        """Format the thresholds as a table with one line per class."""
        columns = (self.threshold.tolist(), self.claims.tolist(), self.right.tolist())
        return '\n'.join(
            f'{name:<20} '
            + (f'from {bound:.4f} on' if np.isfinite(bound) else 'not used')
            + f', {right / max(count, 1):.3f} of {count:.0f} held-out claims right'
            for name, bound, count, right in zip(classes, *columns, strict=True)
        )


@MODELS.register_module()
class ConformalThresholds:
    r"""Fits for each class the smallest threshold at which its claims are right often enough.

    For class k let n be the number of held-out labelled pixels with a score >= t, and r the number
    of those that are of class k. The threshold is the smallest t of a grid with

    .. math:: r \ge \lceil (n + 1) (1 - \alpha) \rceil

    and a class without such a t is not used. This is the correction of conformal risk control for
    the error 1 - r / n: for pixels drawn like the held-out ones, the mean share of wrong claims
    over such draws is at most alpha (an unused class makes no error). At least 9 claims are needed
    for alpha = 0.1. Nothing is guaranteed for a single draw, nor for images unlike the held-out
    ones. The pixels of a tile are not independent draws; tiles are more so (``unit='tile'``).

    Args:
        alpha: Largest share of wrong claims, in (0, 1).
        unit: What is counted: 'pixel'; or 'tile', where n is the number of tiles in which the class
            is claimed and r the sum of the shares that are right there.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, alpha: float = 0.1, unit: str = 'pixel') -> None:
        if not 0 < alpha < 1 or unit not in _UNITS:
            raise ValueError(
                f'ConformalThresholds got alpha={alpha}, unit={unit!r}: alpha must be within '
                f'(0, 1), unit is one of {_UNITS}.'
            )
        self.alpha, self.unit = alpha, unit

    def fit(self, tiles: Iterable[tuple[Tensor, Tensor]], grid: Tensor) -> ClassThresholds:
        """Fit the thresholds to scores and ground truth.

        Args:
            tiles: For each tile the scores of all classes, shape (K, N), and the true class ids,
                shape (N,), int64, outside [0, K) where unknown.
            grid: Thresholds to choose from, ascending, shape (J,), float.

        Returns:
            Thresholds of all classes, on the CPU.

        Raises:
            ValueError: If there is no tile.
        """
        counts: Tensor | None = None
        for scores, truth in tiles:
            claims = self._count(scores, truth, grid.to(scores.device))
            counts = claims if counts is None else counts + claims
        if counts is None:
            raise ValueError(
                'Thresholds are fitted to held-out labelled tiles, and there is none: keep some.'
            )
        claimed, right = counts.cpu()
        enough = (right >= (claimed + 1) * (1 - self.alpha) - 1e-9) & (claimed > 0)
        found, first = enough.max(dim=1)
        grid = torch.cat([grid.cpu().float(), torch.tensor([torch.inf])])
        place = torch.where(found, first, 0)[:, None]
        return ClassThresholds(
            threshold=grid[torch.where(found, first, -1)],
            claims=claimed.gather(1, place)[:, 0],
            right=right.gather(1, place)[:, 0],
            precision=1 - self.alpha,
        )

    def _count(self, scores: Tensor, truth: Tensor, grid: Tensor) -> Tensor:
        """Claims and right claims of a tile at or above each threshold: (2, K, J), float64."""
        num_classes, steps = len(scores), len(grid)
        known = (truth >= 0) & (truth < num_classes)
        scores, truth = scores[:, known], truth[known]
        # level 0 is below the whole grid, level j + 1 at or above its entry j
        level = torch.bucketize(scores.contiguous(), grid.to(scores.dtype), right=True)
        level = level + torch.arange(num_classes, device=level.device)[:, None] * (steps + 1)
        own = level.gather(0, truth[None])
        length = num_classes * (steps + 1)
        counts = torch.stack(
            [torch.bincount(each.flatten(), minlength=length) for each in (level, own)]
        )
        above = counts.view(2, num_classes, -1).flip(2).cumsum(2).flip(2)[..., 1:].double()
        if self.unit == 'pixel':
            return above
        return torch.stack([(above[0] > 0).double(), above[1] / above[0].clamp(min=1)])

    def fit_evidence(
        self,
        labelled: Iterable[tuple[Evidence, np.ndarray]],
        num_classes: int,
        cut: bool = False,
    ) -> ClassThresholds:
        """Fit the thresholds to the evidence of labelled tiles.

        Args:
            labelled: Evidence of tiles, and their label maps (H, W), uint8, with ids outside ``[0,
                num_classes)`` where there is no label.
            num_classes: K.
            cut: Whether regions will be cut to the teacher's segments (``within_segments``); here
                they are then cut to the true segments.

        Returns:
            Thresholds of all classes.
        """
        tiles = (
            ((scores * seen).flatten(1), truth.flatten())  # no claims where nothing was seen
            for scores, seen, truth, _ in replay_labelled(labelled, num_classes, cut)
        )
        return self.fit(tiles, torch.arange(1, FULL_SCORE + 1) / FULL_SCORE)
