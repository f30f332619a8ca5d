# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A weight from the confidence and from how the rest is spread over the other classes."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate


@MODELS.register_module()
class ResidualGate(Gate):
    r"""Weight without a threshold, from confidence and residual variance (CoVar, 2601.11670).

    The remaining probability 1 - c is harmless if all other classes share it evenly, but reveals a
    rival if one class has most of it. With V the variance of the other K - 1 probabilities, the
    weight is one minus the second-order expansion of the cross entropy about an even spread:

    .. math:: w = \max\left(0, c - \frac{(K - 1)^2 V}{2 (1 - c)}\right)

    If one rival has all the rest, w is :math:`c - (1 - c)(K - 2) / 2`. With two classes, w = c. The
    paper's measure is used, but not its clustering of a whole batch by an SVD.

    Args:
        num_classes: K.
        align: See :class:`Gate`. Defaults to False.
        momentum: See :class:`Gate`; used by the alignment only. Defaults to 0.99.
    """

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        # Summed over the other classes: 1 - c and sum p^2 - c^2 lose digits when c is near 1.
        others = probabilities.scatter(1, labels[:, None], 0.0)
        rest = others.sum(dim=1)
        shares = others / rest.clamp(min=torch.finfo(rest.dtype).tiny)[:, None]
        excess = (self.num_classes - 1) * shares.square().sum(dim=1) - 1.0
        return (confidence - rest * excess / 2.0).clamp(0.0, 1.0)
