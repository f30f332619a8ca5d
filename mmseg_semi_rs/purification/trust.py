# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""How far a verifier can be trusted for each class, learnt from labelled tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .evidence import Evidence
from .replay import replay_labelled


@dataclass(frozen=True)
class ClassTrust:
    """Statistics on labelled tiles; tensors of float64.

    Attributes:
        confusion: Labelled pixels by their true class and the class that the verifier clearly
            claims there, shape (K, K).
        present: Labelled pixels of each class, claimed or not, shape (K,).
        precision: Share of the claims of each class that are right, shape (K,).
        balanced: The same if all classes with enough labelled pixels were equally frequent, shape
            (K,).
        trust: Factor on the scores, in [0, 1], shape (K,); see :func:`learn_trust`.
    """

    confusion: Tensor
    present: Tensor
    precision: Tensor
    balanced: Tensor
    trust: Tensor

    def table(self, classes: Sequence[str]) -> str:
        """Format as a table, one line per class: how often its claims are right, and the trust."""
        claimed = self.confusion.sum(0).long().tolist()
        columns = (self.precision, self.balanced, self.trust)
        return '\n'.join(
            f'{name:<20} claimed {count:>10} px, right {right:.3f}, balanced {balanced:.3f}, '
            f'trust {trust:.3f}'
            for name, count, right, balanced, trust in zip(
                classes, claimed, *(column.tolist() for column in columns), strict=True
            )
        )


def learn_trust(
    labelled: Iterable[tuple[Evidence, np.ndarray]],
    num_classes: int,
    gate: float,
    margin: float,
    min_lift: float = 0.5,
    min_pixels: int = 500,
    cut: bool = False,
) -> ClassTrust:
    r"""Measure on labelled tiles how often clear claims are right.

    Let :math:`P(k | y)` be the share of the labelled pixels of class y at which class k is clearly
    claimed, and :math:`p_y` the share of class y. The precision of the claims of class k is

    .. math:: t_k = \min\left(\frac{p_k P(k | k)}{\sum_y p_y P(k | y)},
                              \frac{P(k | k)}{\sum_y P(k | y)}\right),

    the smaller of the actual precision and that for equally frequent classes. Where a teacher is
    unsure, rare classes are not rare, and a verifier that confuses them with a frequent class would
    erase them. The trust is t_k, but 0 if either precision is hardly better than chance,

    .. math:: (precision - q) / (1 - q) < min\_lift,

    with q = p_k for the first and q = 1 / K for the second, or if there are fewer than
    ``min_pixels`` claims. A verifier that lies, guesses, or always claims the most frequent class
    is thus ignored. Classes with fewer than ``min_pixels`` labelled pixels are left out of the
    second precision, since too little is known about them.

    Args:
        labelled: Evidence of tiles, and their label maps (H, W), uint8, with ids outside ``[0,
            num_classes)`` where there is no label.
        num_classes: Number of classes K.
        gate: Score from which a claim is clear, see ``EvidencePolicy.clear``.
        margin: Lead over the second class from which a claim is clear.
        min_lift: See above, in [0, 1].
        min_pixels: See above.
        cut: Whether regions will be cut to the teacher's segments (``within_segments``); here they
            are then cut to the true segments.

    Returns:
        Trust of all classes; 0 for those that are never claimed.
    """
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    present = torch.zeros(num_classes, dtype=torch.float64)
    for scores, seen, truth, known in replay_labelled(labelled, num_classes, cut):
        present += torch.bincount(truth[known], minlength=num_classes)
        values, classes = scores.topk(2, dim=0)
        clear = seen & known & (values[0] >= gate) & (values[0] - values[1] >= margin)
        pairs = truth[clear] * num_classes + classes[0][clear]
        confusion += torch.bincount(pairs, minlength=num_classes**2).view_as(confusion)
    known = present >= min_pixels
    rates = torch.where(known[:, None], confusion / present.clamp(min=1)[:, None], 0.0)
    precision = confusion.diagonal() / confusion.sum(0).clamp(min=1)
    balanced = rates.diagonal() / rates.sum(0).clamp(min=1e-12)
    share = present / present.sum().clamp(min=1)
    lift = torch.minimum(_lift(precision, share), _lift(balanced, torch.tensor(1 / num_classes)))
    trusted = (confusion.sum(0) >= min_pixels) & (lift >= min_lift)
    trust = torch.where(trusted, torch.minimum(precision, balanced), 0.0)
    return ClassTrust(confusion, present, precision, balanced, trust)


def _lift(precision: Tensor, chance: Tensor) -> Tensor:
    """Position of a precision between chance (0) and perfection (1)."""
    return (precision - chance) / (1 - chance).clamp(min=1e-9)
