# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One threshold per class, which keeps the same share of the pixels of every class."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate

_BINS, _RANGE = 2048, 16.0  # of -log(1 - c): float32 cannot tell c > 1 - exp(-16) from 1


@MODELS.register_module()
class ClassQuantileGate(Gate):
    r"""The most confident share r of each class's pixels gets weight 1 (CBST, arXiv 1810.07911).

    .. math:: \tau_k = \max(\text{floor}, \text{EMA of quantile}_{1-r}\{c : y = k\}), \quad
              w = [c \ge \tau_y]

    over the pixels of all ranks. A fixed threshold keeps mostly easy classes, and the loss then
    favours predicting nothing else; here every class is kept. The quantile is read from a histogram
    of :math:`-\log(1 - c)` with bins 1/128 wide, so that 1 - tau is exact to 0.8 %.

    Args:
        num_classes: K.
        share: r, in (0, 1].
        floor: Smallest threshold, in [0, 1].
        align: See :class:`Gate`.
        momentum: See :class:`Gate`.

    Raises:
        ValueError: If a number is out of range.
    """

    quantile: Tensor

    def __init__(
        self,
        num_classes: int,
        share: float = 0.5,
        floor: float = 0.5,
        align: bool = False,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(num_classes, align, momentum)
        if not 0 < share <= 1 or not 0 <= floor <= 1:
            raise ValueError(
                f'ClassQuantileGate share={share} must be in (0, 1] and floor={floor} in [0, 1].'
            )
        self.share, self.floor = share, floor
        self._remember('quantile', num_classes)

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        found = self._batch_quantile(confidence, labels, valid)
        threshold = self._average('quantile', found).clamp(min=self.floor)
        return (confidence >= threshold[labels]).float()

    def _batch_quantile(self, confidence: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Quantile of each class in this batch, shape (K,); NaN for a class without pixels."""
        places = -torch.log1p(-confidence.clamp(max=1.0 - 1e-7)) * (_BINS / _RANGE)
        bins = places.long().clamp(0, _BINS - 1) + labels * _BINS
        counts = confidence.new_zeros(self.num_classes * _BINS)
        counts.scatter_add_(0, bins.flatten(), valid.flatten().to(counts.dtype))
        all_reduce(counts)
        # above[k, j]: number of pixels of class k at or above the lower edge of bin j
        above = counts.view(-1, _BINS).flip(1).cumsum(1).flip(1)
        total = above[:, :1]
        highest = (above >= self.share * total).sum(1) - 1
        edge = -torch.expm1(-highest * (_RANGE / _BINS))
        return torch.where(total[:, 0] > 0, edge, torch.nan)
