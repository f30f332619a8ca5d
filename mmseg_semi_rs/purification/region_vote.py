# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pseudo labels by majority vote within class-free regions."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ..structures import PseudoLabel
from .policy import CORRECTED, SUPPORTED, Purified
from .replay import count_votes

_WEIGHTS = ('share', 'confidence', 'gate')


@MODELS.register_module()
class RegionVote:
    r"""Gives the pixels of a region the label that most of them have (UFFM, 2026).

    For a region R let y be the labels of its valid pixels in the crop, and

    .. math:: s = \max_k |\{i \in R: y_i = k\}| / |R|

    with k* the class. If s >= ``share``, all pixels of R get the label k* and one weight w; other
    regions, and pixels outside all regions, do not change. A pixel with a new label is 'corrected',
    one that keeps its label and gains weight 'supported'. In regions that do not fully agree, w may
    also be less than the weight from the gate. The confidence is kept.

    Args:
        share: Smallest deciding share s, in (0.5, 1].
        weight: How w is computed. 'gate': mean weight of the agreeing pixels, so that the gate or a
            previous policy still decides how much a region counts. 'share': s, as published,
            whatever the gate says; this needs a trained teacher, since one that predicts a single
            class is unanimous in every region. 'confidence': mean confidence of the agreeing
            pixels.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, share: float = 0.6, weight: str = 'gate') -> None:
        if not 0.5 < share <= 1 or weight not in _WEIGHTS:
            raise ValueError(
                f'RegionVote got share={share}, weight={weight!r}: share must be within (0.5, 1], '
                f'weight is one of {_WEIGHTS}.'
            )
        self.share, self.weight = share, weight

    def __call__(
        self, pseudo: PseudoLabel, regions: Tensor, num_regions: int, num_classes: int
    ) -> Purified:
        """Vote, without a host synchronisation.

        Args:
            pseudo: Pseudo labels of shape (B, H, W).
            regions: Number of the region at each pixel, 0 for none, shape (B, H, W), int64.
            num_regions: Highest region number of any image.
            num_classes: Number of classes K.

        Returns:
            New pseudo labels, bit-equal where no region decides, and the actions.
        """
        votes = count_votes(pseudo.labels, pseudo.valid, regions, num_regions, num_classes)
        most, winner = votes.max(dim=2)
        share = most / votes.sum(dim=2).clamp(min=1)
        undecided = share < self.share
        undecided[:, 0] = True
        place = regions.flatten(1)
        label = winner.masked_fill_(undecided, -1).gather(1, place).view_as(regions)
        decides = (label >= 0) & pseudo.valid
        values = share
        if self.weight != 'share':
            given = pseudo.confidence if self.weight == 'confidence' else pseudo.weight
            agrees = decides & (pseudo.labels == label)
            sums = torch.zeros_like(most)
            sums.scatter_add_(1, place, (given * agrees).flatten(1).to(sums.dtype))
            values = sums / most.clamp(min=1)
        values = values.gather(1, place).view_as(regions).to(pseudo.weight.dtype)
        labels = torch.where(decides, label, pseudo.labels)
        weight = torch.where(decides, values, pseudo.weight)
        corrected = labels != pseudo.labels
        actions = torch.zeros_like(labels, dtype=torch.uint8)
        actions = actions.masked_fill(weight > pseudo.weight, SUPPORTED)
        actions = actions.masked_fill(corrected, CORRECTED)
        return Purified(pseudo.replace(labels=labels, weight=weight), actions)
