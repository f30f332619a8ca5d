# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S's stability loss: the surer of two students teaches the other (arXiv 2512.23035)."""

from __future__ import annotations

import math

from torch import Tensor

from ...structures import PseudoLabel
from .rank_sum import RankSum


def taught_pixels(own: PseudoLabel, partner: PseudoLabel, ties: bool = False) -> Tensor:
    r"""Where a student is taught by its partner.

    With c the confidences and H whether they pass the gate (weight above 0):

    .. math:: M = valid \wedge H_{partner} \wedge (\neg H_{own} \vee c_{partner} > c_{own})

    Args:
        own: The student's own targets, before any purifier, (B, H, W).
        partner: The partner's.
        ties: Whether students of exactly equal confidence teach each other, as released. Defaults
            to False: nobody does.

    Returns:
        Shape (B, H, W), bool; False on padding.
    """
    surer = partner.confidence > own.confidence
    if ties:
        surer = partner.confidence >= own.confidence
    return own.valid & (partner.weight > 0) & ((own.weight == 0) | surer)


def stability_loss(logits: Tensor, partner: Tensor, taught: Tensor, denominator: RankSum) -> Tensor:
    """Mean squared difference of two students' probabilities on the taught pixels.

    ``sum over pixels and classes of M * (p - stop_gradient(p_partner))^2 / (K * sum of M)``.

    Args:
        logits: Of the taught student, with gradient, shape (B, K, H, W).
        partner: The partner's probabilities, shape (B, K, H, W); no gradient reaches them.
        taught: M, shape (B, H, W), bool.
        denominator: The number of taught pixels.

    Returns:
        Scalar, float32; 0 where nothing is taught.
    """
    difference = logits.float().softmax(dim=1) - partner.detach()
    squares = difference.square().sum(dim=1) * taught
    return squares.sum() / (logits.shape[1] * denominator.per_rank())


def stability_ramp(iteration: int, total: int, share: float) -> float:
    """Weight of the stability loss as a share of its peak: half a cosine, then 1.

    ``0.5 * (1 - cos(pi * t / (share * T - 1)))`` for t < share * T.

    Args:
        iteration: t, from 0.
        total: T, iterations of the training.
        share: Part of the training that the ramp takes, in [0, 1].

    Returns:
        In [0, 1].
    """
    length = share * total
    if iteration >= length or length <= 1:
        return 1.0
    return 0.5 * (1.0 - math.cos(math.pi * iteration / (length - 1)))
