# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Thresholds that are measured on held-out labels instead of chosen."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate


@MODELS.register_module()
class ConformalGate(Gate):
    r"""Weight 1 from the confidence at which labels are right often enough, else 0.

    .. math:: w = [c \ge t_y]

    where t_k is the smallest threshold at which a share of 1 - alpha of the held-out pixels
    labelled k is right (ConformalSAM, arXiv 2507.15803, for a teacher). ``CalibrateGateHook``
    measures it. Nothing is kept before that, nor of a class for which no threshold suffices.

    Args:
        num_classes: K.
        align: See :class:`Gate`.
        momentum: See :class:`Gate`; used by the alignment only.
    """

    needs_burn_in = False  # held-out labels vouch for an untrained teacher, too
    threshold: Tensor

    def __init__(self, num_classes: int, align: bool = False, momentum: float = 0.99) -> None:
        super().__init__(num_classes, align, momentum)
        self.register_buffer('threshold', torch.full((num_classes,), torch.inf))

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        return (confidence >= self.threshold[labels]).float()
