# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The pseudo label that passes from the teacher through purifiers and CutMix to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class SoftLabel(NamedTuple):
    """The k most probable classes of each pixel, with their probabilities.

    Attributes:
        classes: Class ids, the most probable first, shape (B, k, H, W), int16.
        probabilities: Their probabilities, which add up to 1, shape (B, k, H, W), float32.
    """

    classes: Tensor
    probabilities: Tensor

    @classmethod
    def top(cls, probabilities: Tensor, count: int) -> SoftLabel:
        """Keep the ``count`` most probable classes of (B, K, H, W), renormalised to sum to 1."""
        kept, classes = probabilities.topk(min(count, probabilities.shape[1]), dim=1)
        kept = kept.nan_to_num(nan=0.0)
        return cls(classes.short(), kept / kept.sum(dim=1, keepdim=True).clamp(min=1e-12))

    def relabelled(self, labels: Tensor, changed: Tensor) -> SoftLabel:
        """Set the probability of new labels (B, H, W) to 1 where ``changed`` (B, H, W) is True."""
        sure = torch.zeros_like(self.probabilities)
        sure[:, 0] = 1.0
        classes = torch.where(changed[:, None], labels[:, None].short(), self.classes)
        return SoftLabel(classes, torch.where(changed[:, None], sure, self.probabilities))


@dataclass(frozen=True)
class PseudoLabel:
    """Per-pixel targets for the unlabelled images of one batch.

    The loss reads ``weight``, not ``confidence``. The gate only initialises the weight, so a
    purifier may raise, lower or relabel a pixel without inventing a confidence.

    Attributes:
        labels: Class ids, shape (B, H, W), int64, in ``[0, num_classes)``.
        confidence: The teacher's largest class probability, shape (B, H, W), float32 in [0, 1].
        weight: Weight of each pixel in the unsupervised loss, shape (B, H, W), float32 in [0, 1].
        valid: False on padding, shape (B, H, W), bool. Only valid pixels count in the loss's
            denominator.
        soft: Soft labels that the loss uses instead of ``labels``. A relabelled pixel gets
            probability 1 for its new label. None for hard labels.

    Raises:
        ValueError: If the four tensors differ in shape or are not (B, H, W), or those of ``soft``
            are not (B, k, H, W).
    """

    labels: Tensor
    confidence: Tensor
    weight: Tensor
    valid: Tensor
    soft: SoftLabel | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in self._maps().items()}
        if len(set(shapes.values())) != 1 or self.labels.ndim != 3:
            raise ValueError(f'PseudoLabel needs four (B, H, W) tensors of one shape, got {shapes}')
        if self.soft is not None:
            soft = [tuple(part.shape) for part in self.soft]
            batch, *size = self.labels.shape
            if soft[0] != soft[1] or soft[0][:1] + soft[0][2:] != (batch, *size):
                raise ValueError(
                    f'PseudoLabel of {tuple(self.labels.shape)} needs soft labels (B, k, H, W), '
                    f'got {soft}'
                )

    def _maps(self) -> dict[str, Tensor]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != 'soft'}

    def _each(self, change: Callable[[Tensor], Tensor]) -> PseudoLabel:
        """Apply a function to all tensors; those of soft labels have one dimension more."""
        soft = None if self.soft is None else SoftLabel(*map(change, self.soft))
        return PseudoLabel(
            **{name: change(value) for name, value in self._maps().items()}, soft=soft
        )

    def replace(self, **changes: Any) -> PseudoLabel:
        """Return a copy with some tensors replaced (purifiers use this)."""
        if 'labels' in changes and 'soft' not in changes and self.soft is not None:
            changed = changes['labels'] != self.labels
            changes['soft'] = self.soft.relabelled(changes['labels'], changed)
        return replace(self, **changes)

    def first(self, count: int) -> PseudoLabel:
        """Return the targets of the first ``count`` images."""
        return self._each(lambda value: value[:count])

    def mix(self, partner: Tensor, box: Tensor) -> PseudoLabel:
        """Paste targets of other images into boxes; all tensors are mixed in the same way.

        Args:
            partner: Index of each image's partner, shape (n,), int64, for the first n <= B images.
            box: True where the partner's pixels are pasted, shape (n, H, W), bool.

        Returns:
            The mixed targets of the first n images.
        """

        def mixed(value: Tensor) -> Tensor:
            where = box if value.ndim == box.ndim else box[:, None]
            return torch.where(where, value[partner], value[: len(partner)])

        return self._each(mixed)
