# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""FixMatch's gate: one threshold, or one for each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.registry import MODELS
from torch import Tensor

from .base import Gate


@MODELS.register_module()
class FixedGate(Gate):
    r"""Weight 1 at or above a fixed confidence, else 0 (FixMatch, arXiv 2001.07685).

    .. math:: w = [c \ge \tau_y]

    Args:
        num_classes: K.
        threshold: tau, one number or one per class, in [0, 1].
        align: See :class:`Gate`.
        momentum: See :class:`Gate`; used by the alignment only.

    Raises:
        ValueError: If a threshold is out of range, or their count is neither 1 nor K.
    """

    threshold: Tensor

    def __init__(
        self,
        num_classes: int,
        threshold: float | Sequence[float] = 0.95,
        align: bool = False,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(num_classes, align, momentum)
        self.needs_burn_in = align  # the average of the alignment follows the teacher
        listed = list(threshold) if isinstance(threshold, Sequence) else [threshold]
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in listed):
            raise ValueError(f'semi_train_cfg.conf_thresh={threshold} must be within [0, 1].')
        if len(listed) not in (1, num_classes):
            raise ValueError(
                f'semi_train_cfg.conf_thresh has {len(listed)} entries for {num_classes} classes: '
                'give one number or one per class.'
            )
        each = torch.tensor(listed, dtype=torch.float32).expand(num_classes).clone()
        self.register_buffer('threshold', each, persistent=False)

    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """See :meth:`Gate.weigh`."""
        return (confidence >= self.threshold[labels]).float()
