# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""How far a verifier can be trusted, class by class, learnt where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .evidence import Evidence
from .replay import frame_of, replay_evidence, within_segments


@dataclass(frozen=True)
class ClassTrust:
    """What was counted on labelled tiles; all tensors have shape (K,), float64.

    Attributes:
        claimed (Tensor): Labelled pixels at which a verifier clearly claims the class.
        right (Tensor): Of these, pixels that are of the class.
        present (Tensor): Labelled pixels of the class.
        trust (Tensor): In [0, 1], what scores are multiplied by; see :func:`learn_trust`.
    """

    claimed: Tensor
    right: Tensor
    present: Tensor
    trust: Tensor

    def table(self, classes: Sequence[str]) -> str:
        """One line per class: how often its claims are right, and the trust that this gives."""
        lines = []
        for index, name in enumerate(classes):
            claimed = float(self.claimed[index])
            share = f'{float(self.right[index]) / claimed:.3f}' if claimed else '-'
            lines.append(
                f'{name:<20} claimed {int(claimed):>10} px, right {share:>5}, '
                f'trust {float(self.trust[index]):.3f}'
            )
        return '\n'.join(lines)


def learn_trust(
    labelled: Iterable[tuple[Evidence, np.ndarray]],
    num_classes: int,
    gate: float,
    margin: float,
    min_lift: float = 0.5,
    min_pixels: int = 500,
    cut: bool = False,
) -> ClassTrust:
    r"""Count how often clear claims are right on labelled tiles.

    The trust of class k is the precision of its claims, :math:`t_k = right_k / claimed_k`; but 0 if
    they are hardly better than chance,

    .. math:: (t_k - p_k) / (1 - p_k) < min\_lift

    with p_k the share of the class among the labelled pixels, or if there are fewer than
    ``min_pixels`` claims. So a verifier that lies, guesses, or always says the most frequent class,
    is not listened to.

    Args:
        labelled (Iterable[tuple[Evidence, np.ndarray]]): Evidence of tiles, and their label maps
            (H, W), uint8, with ids outside ``[0, num_classes)`` where there is none.
        num_classes (int): Number of classes K.
        gate (float): Score from which a claim is clear, see ``EvidencePolicy.clear``.
        margin (float): And its lead over the second class.
        min_lift (float): See above, in [0, 1]. Defaults to 0.5.
        min_pixels (int): See above. Defaults to 500.
        cut (bool): Whether regions will be cut to the teacher's segments (``within_segments``);
            they are then cut to the true ones here. Defaults to False.

    Returns:
        ClassTrust: Of all classes; 0 for those that are never claimed.
    """
    claimed, right, present = (torch.zeros(num_classes, dtype=torch.float64) for _ in range(3))
    for evidence, labels in labelled:
        truth = torch.from_numpy(labels.astype(np.int64))
        known = (truth >= 0) & (truth < num_classes)
        present += torch.bincount(truth[known], minlength=num_classes)
        frame = frame_of((), evidence.size)
        found = replay_evidence([evidence], [frame], num_classes, evidence.size, 'cpu', cut)
        seen = found.seen[0]
        if cut:
            inside = within_segments(found, torch.where(known, truth, 0)[None], known[None])
            seen = seen & inside[0]
        values, classes = found.scores[0].topk(2, dim=0)
        clear = seen & known & (values[0] >= gate) & (values[0] - values[1] >= margin)
        claims = classes[0][clear]
        claimed += torch.bincount(claims, minlength=num_classes)
        right += torch.bincount(claims[claims == truth[clear]], minlength=num_classes)
    precision = right / claimed.clamp(min=1)
    chance = present / present.sum().clamp(min=1)
    lift = (precision - chance) / (1 - chance).clamp(min=1e-9)
    trusted = (claimed >= min_pixels) & (lift >= min_lift)
    return ClassTrust(claimed, right, present, torch.where(trusted, precision, 0.0))
