# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A weight that falls off smoothly below the mean confidence."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate


@MODELS.register_module()
class SoftGate(Gate):
    r"""Weight 1 above the mean confidence, and a Gaussian below it (SoftMatch, 2301.10921).

    .. math:: w = \exp(-\min(c - \mu, 0)^2 / (2 \sigma^2))

    where :math:`\mu` and :math:`\sigma^2` are moving averages of the mean and the variance of c
    over the valid pixels of all ranks.

    Args:
        num_classes: K.
        per_class: Whether each class has its own mean and variance.
        align: See :class:`Gate`.
        momentum: See :class:`Gate`.
    """

    def __init__(
        self,
        num_classes: int,
        per_class: bool = False,
        align: bool = False,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(num_classes, align, momentum)
        self.per_class = per_class
        self._remember('mean', num_classes if per_class else 1)
        self._remember('variance', num_classes if per_class else 1)

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        if self.per_class:
            group = labels[:, None] == torch.arange(self.num_classes, device=labels.device).view(
                1, -1, 1, 1
            )
        else:
            group = torch.ones_like(labels[:, None], dtype=torch.bool)
        each = confidence[:, None]
        # a class without pixels gives 0 / 0 = NaN, which leaves its averages unchanged
        share = self._means(group.float(), valid)
        batch_mean = self._means(each * group, valid) / share
        deviation = (each - batch_mean.view(1, -1, 1, 1)).square()
        batch_variance = self._means(torch.where(group, deviation, 0.0), valid) / share
        mean = self._average('mean', batch_mean)
        variance = self._average('variance', batch_variance)
        index = labels if self.per_class else torch.zeros_like(labels)
        below = (confidence - mean[index]).clamp(max=0.0)
        return torch.exp(-below.square() / (2.0 * variance[index].clamp(min=1e-12)))
