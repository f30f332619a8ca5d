# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Stability loss of Co2S (arXiv 2512.23035): the more confident student teaches the other."""

from __future__ import annotations

import math

from torch import Tensor

from ...structures import PseudoLabel
from .rank_sum import RankSum


def taught_pixels(own: PseudoLabel, partner: PseudoLabel, ties: bool = False) -> Tensor:
    r"""Pixels on which a student is taught by its partner.

    With c the confidence and H whether a pixel passes the gate (weight above 0):

    .. math:: M = valid \wedge H_{partner} \wedge (\neg H_{own} \vee c_{partner} > c_{own})

    Args:
        own: The student's own pseudo labels before purification, (B, H, W).
        partner: The partner's pseudo labels, likewise.
        ties: Whether students of exactly equal confidence teach each other, as released. Defaults
            to False: neither teaches.

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
        logits: Logits of the taught student, with gradient, shape (B, K, H, W).
        partner: The partner's probabilities, shape (B, K, H, W); they get no gradient.
        taught: M, shape (B, H, W), bool.
        denominator: Number of taught pixels over all ranks.

    Returns:
        Scalar, float32; 0 if no pixel is taught.
    """
    difference = logits.float().softmax(dim=1) - partner.detach()
    squares = difference.square().sum(dim=1) * taught
    return squares.sum() / (logits.shape[1] * denominator.per_rank())


def stability_ramp(iteration: int, total: int, share: float) -> float:
    """Weight of the stability loss relative to its peak: a half cosine from 0 to 1, then 1.

    ``0.5 * (1 - cos(pi * t / (share * T - 1)))`` for t < share * T.

    Args:
        iteration: t, from 0.
        total: T, length of the training in iterations.
        share: Share of the training that the ramp takes, in [0, 1].

    Returns:
        A value in [0, 1].
    """
    length = share * total
    if iteration >= length or length <= 1:
        return 1.0
    return 0.5 * (1.0 - math.cos(math.pi * iteration / (length - 1)))
