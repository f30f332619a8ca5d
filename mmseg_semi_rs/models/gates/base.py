# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of gates: from the teacher's logits to weighted, optionally aligned pseudo labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...structures import PseudoLabel, SoftLabel


class Gate(nn.Module, ABC):
    r"""Turns the teacher's logits into pseudo labels, with a weight in the loss for each pixel.

    A subclass computes the weights in :meth:`weigh`, given the probabilities p of a pixel, their
    maximum c (the confidence) and its class y. The state of a gate (thresholds, averages) is kept
    in buffers: it is averaged over all ranks, saved and resumed with the model, and changes only in
    training mode.

    With ``align=True`` the probabilities are first aligned to the class frequencies of the labelled
    images (ReMixMatch, arXiv 1911.09785):

    .. math:: p_k \leftarrow p_k q_k / \tilde p_k, \text{normalised}

    where q is the share of each class in the labelled pixels (plus one pixel per class), and
    :math:`\tilde p` the moving average of the teacher's mean probabilities, which starts from the
    first batch.

    Args:
        num_classes: K.
        align: Whether to align.
        momentum: Share of the old value in all moving averages of the gate, in [0, 1).

    Raises:
        ValueError: If the momentum is out of range.
    """

    #: Whether the gate needs a burn-in, because an untrained teacher would mislead it.
    needs_burn_in = True
    #: How many classes of each pixel keep their probability in the loss; 0 means hard labels.
    soft_labels = 0
    label_pixels: Tensor

    def __init__(self, num_classes: int, align: bool = False, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(
                f'{type(self).__name__} momentum={momentum}, the share of the old value, must be '
                'in [0, 1).'
            )
        self.num_classes, self.align, self.momentum = num_classes, align, momentum
        if align:
            self.register_buffer('label_pixels', torch.zeros(num_classes, dtype=torch.float64))
            self._remember('mean_probability', num_classes)

    @abstractmethod
    def weigh(
        self, probabilities: Tensor, confidence: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """Compute the weight of each pixel.

        Args:
            probabilities: Class probabilities, shape (B, K, H, W), float32.
            confidence: Their maximum, shape (B, H, W).
            labels: The class of that maximum, shape (B, H, W), int64.
            valid: False on padding, shape (B, H, W), bool.

        Returns:
            Values in [0, 1], shape (B, H, W), float32. The caller sets padding to 0.
        """

    def observe(self, samples: Sequence[SegDataSample]) -> None:
        """Count the classes of labelled images for the alignment.

        Args:
            samples: Data samples with ``gt_sem_seg``.
        """
        if not self.align or not self.training:
            return
        labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
        known = (labels >= 0) & (labels < self.num_classes)
        counts = torch.zeros_like(self.label_pixels)
        counts.scatter_add_(0, labels.where(known, 0).flatten(), known.flatten().to(counts.dtype))
        all_reduce(counts)
        self.label_pixels += counts

    def forward(self, logits: Tensor, valid: Tensor) -> PseudoLabel:
        """Make pseudo labels.

        Args:
            logits: The teacher's logits of weak views, shape (B, K, H, W).
            valid: False on padding, shape (B, H, W), bool.

        Returns:
            Pseudo labels of shape (B, H, W).
        """
        probabilities = logits.float().softmax(dim=1)
        if self.align:
            probabilities = self._aligned(probabilities, valid)
        confidence, labels = probabilities.max(dim=1)
        weight = self.weigh(probabilities, confidence, labels, valid)
        weight = torch.where(valid, weight.nan_to_num(nan=0.0), 0.0)
        soft = SoftLabel.top(probabilities, self.soft_labels) if self.soft_labels else None
        return PseudoLabel(labels, confidence, weight, valid, soft)

    def _aligned(self, probabilities: Tensor, valid: Tensor) -> Tensor:
        wanted = self.label_pixels + 1.0
        wanted = (wanted / wanted.sum()).float()
        found = self._average('mean_probability', self._means(probabilities, valid))
        # NaN: no batch so far had a valid pixel
        factor = torch.where(found.isnan(), 1.0, wanted / found.clamp(min=1e-6))
        probabilities = probabilities * factor.view(1, -1, 1, 1)
        return probabilities / probabilities.sum(dim=1, keepdim=True)

    def _remember(self, name: str, *shape: int) -> None:
        """Register a moving average; NaN means that it has no value yet."""
        self.register_buffer(name, torch.full(shape, torch.nan))

    def _average(self, name: str, value: Tensor) -> Tensor:
        """Update a moving average, which starts at its first value; NaN leaves it unchanged."""
        old = getattr(self, name)
        new = torch.where(old.isnan(), value, old.lerp(value, 1.0 - self.momentum))
        new = torch.where(value.isnan(), old, new)
        if self.training:
            old.copy_(new)
        return new

    @staticmethod
    def _means(values: Tensor, valid: Tensor) -> Tensor:
        """Mean over the valid pixels of all ranks: values (B, C, H, W) give (C,)."""
        sums = (values * valid[:, None]).sum(dim=(0, 2, 3))
        total = torch.cat([sums, valid.sum()[None].to(sums.dtype)])
        all_reduce(total)
        return total[:-1] / total[-1]


def build_gate(
    gate: Mapping[str, Any] | None, conf_thresh: float | Sequence[float], num_classes: int
) -> Gate:
    """Build ``semi_train_cfg.gate``, or the ``FixedGate`` for which ``conf_thresh`` is short.

    Args:
        gate: Config of a registered gate, without ``num_classes``.
        conf_thresh: Threshold of the ``FixedGate`` that is built if ``gate`` is None.
        num_classes: K.

    Returns:
        The gate.

    Raises:
        ValueError: If the config is not that of a gate.
    """
    if gate is None:
        gate = dict(type='FixedGate', threshold=conf_thresh)
    if not isinstance(gate, Mapping) or 'type' not in gate:
        raise ValueError(
            f'semi_train_cfg.gate={gate!r} must be a dict such as dict(type="ClassQuantileGate").'
        )
    kind = MODELS.get(gate['type']) if isinstance(gate['type'], str) else gate['type']
    if not (isinstance(kind, type) and issubclass(kind, Gate)):
        raise ValueError(
            f'semi_train_cfg.gate has type={gate["type"]!r}, which is no gate: choose FixedGate, '
            'ClassQuantileGate, ConformalGate, AdaptiveGate, SoftGate or ResidualGate.'
        )
    built: Gate = MODELS.build(dict(gate, num_classes=num_classes))
    return built
