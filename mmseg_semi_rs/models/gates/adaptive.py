# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Thresholds that follow the teacher's confidence."""

from __future__ import annotations

from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate


@MODELS.register_module()
class AdaptiveGate(Gate):
    r"""Self-adaptive thresholds (FreeMatch, arXiv 2205.07246).

    .. math:: \tau_t = m \tau_{t-1} + (1 - m) \overline{c}, \quad
              \tilde p_t = m \tilde p_{t-1} + (1 - m) \overline{p}, \quad
              w = [c \ge \tau_t \tilde p_y / \max_k \tilde p_k]

    with means over the valid pixels of all ranks. Both averages start from the means of the first
    batch, since the teacher has already gone through a burn-in.

    Args:
        num_classes: K.
        align: See :class:`Gate`.
        momentum: m, in [0, 1).
    """

    def __init__(self, num_classes: int, align: bool = False, momentum: float = 0.99) -> None:
        super().__init__(num_classes, align, momentum)
        self._remember('mean_confidence', 1)
        self._remember('class_probability', num_classes)

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        overall = self._average('mean_confidence', self._means(confidence[:, None], valid))
        each = self._average('class_probability', self._means(probabilities, valid))
        threshold = overall * each / each.max()
        return (confidence >= threshold[labels]).float()
