# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The pseudo label that travels from the teacher through purifiers and CutMix to the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PseudoLabel:
    """Per-pixel targets for the unlabelled images of one batch.

    The loss reads ``weight``, not ``confidence``: the threshold only initialises the weight, so a
    purifier may raise, lower or relabel a pixel without faking a confidence above the gate.

    Attributes:
        labels: Class ids, shape (B, H, W), int64, in ``[0, num_classes)``.
        confidence: The teacher's largest class probability, shape (B, H, W), float32 in [0, 1].
        weight: Weight of each pixel in the unsupervised loss, shape (B, H, W), float32 in [0, 1].
        valid: False on padding, shape (B, H, W), bool. Only valid pixels count in the loss's
            denominator.

    Raises:
        ValueError: If the four tensors differ in shape or are not (B, H, W).
    """

    labels: Tensor
    confidence: Tensor
    weight: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        shapes = {field.name: tuple(getattr(self, field.name).shape) for field in fields(self)}
        if len(set(shapes.values())) != 1 or self.labels.ndim != 3:
            raise ValueError(f'PseudoLabel needs four (B, H, W) tensors of one shape, got {shapes}')

    def replace(self, **changes: Tensor) -> PseudoLabel:
        """Return a copy with some tensors replaced (purifiers use this)."""
        return replace(self, **changes)

    def first(self, count: int) -> PseudoLabel:
        """Return the targets of the first ``count`` images."""
        return PseudoLabel(
            **{field.name: getattr(self, field.name)[:count] for field in fields(self)}
        )

    def mix(self, partner: Tensor, box: Tensor) -> PseudoLabel:
        """Paste another image's targets into a box; all four tensors move together.

        Args:
            partner: Index of each image's partner, shape (n,), int64, for the first n <= B images.
            box: True where the partner's pixels are pasted, shape (n, H, W), bool.

        Returns:
            The mixed targets of the first n images.
        """
        mixed = {
            field.name: torch.where(box, value[partner], value[: len(partner)])
            for field in fields(self)
            for value in (getattr(self, field.name),)
        }
        return PseudoLabel(**mixed)
