# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cross entropy over valid pixels, with denominators that do not depend on the number of ranks."""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...structures import SoftLabel
from .rank_sum import RankSum


def consistency_loss(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor,
    denominator: RankSum,
    soft: SoftLabel | None = None,
) -> Tensor:
    """Weighted cross entropy against pseudo labels (RS-MTDF's L_s, FixMatch eq. 4).

    ``sum(weight * CE(logits, labels)) / #valid``: the denominator counts every valid pixel,
    whatever its weight.

    Args:
        logits: The student's logits of the strong view, shape (B, K, H, W).
        labels: Class ids, shape (B, H, W), int64 in [0, K).
        weight: Weight of each pixel, shape (B, H, W), in [0, 1]; 0 on padding.
        denominator: Number of valid pixels over all ranks.
        soft: Classes c_j and probabilities q_j, which replace ``labels``: CE is then ``-sum over j
            of q_j log p_{c_j}``.

    Returns:
        Scalar, float32; 0 if every weight is 0.
    """
    if soft is None:
        loss = F.cross_entropy(logits.float(), labels, reduction='none')
    else:
        scores = logits.float().log_softmax(dim=1).gather(1, soft.classes.long())
        loss = -(soft.probabilities * scores).sum(dim=1)
    return (loss * weight).sum() / denominator.per_rank()


@MODELS.register_module()
class ValidCrossEntropyLoss(nn.Module):
    """Mean cross entropy over the pixels of all ranks that are not ignored.

    Unlike mmseg's ``CrossEntropyLoss`` it never counts ignored pixels in the denominator, does not
    depend on how a batch is split over ranks, and does not make the host wait for the device.

    Args:
        class_weight: Weight of each class. As in torch, the denominator is then the sum of the
            weights of the counted pixels.
        loss_weight: Factor on the loss.
        loss_name: Key of the loss in the log; must begin with ``loss_``.
    """

    def __init__(
        self,
        class_weight: list[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        **kwargs: object,
    ) -> Tensor:
        """Compute the loss.

        Args:
            logits: Shape (B, K, H, W).
            labels: Class ids, shape (B, H, W), int64.
            weight: Weight of each pixel, shape (B, H, W), from mmseg's pixel samplers. It does not
                change the denominator.
            ignore_index: Label of pixels that are left out.
            **kwargs: Ignored; mmseg's heads pass the same arguments to all losses.

        Returns:
            Scalar, float32.
        """
        counted = labels != ignore_index
        if self.class_weight is None:
            class_weight, count = None, counted.sum()
        else:
            class_weight = logits.new_tensor(self.class_weight, dtype=logits.float().dtype)
            count = (class_weight[labels.masked_fill(~counted, 0)] * counted).sum()
        denominator = RankSum(count)
        loss = F.cross_entropy(
            logits.float(),
            labels,
            weight=class_weight,
            ignore_index=ignore_index,
            reduction='none',
        )
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * loss.sum() / denominator.per_rank()
