# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Interfaces of the parts that segmentors work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..structures import PseudoLabel


@runtime_checkable
class HeadWithFeatureLosses(Protocol):
    """A decode head that also has losses on features, as distillation heads do."""

    def forward_train(
        self, feats: tuple, valid: Tensor, branches: Mapping[str, slice] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Decode and compute feature losses in one pass.

        Args:
            feats: Output of the segmentor's ``extract_feat``.
            valid: False on padding, shape (B, H, W), bool, at image size.
            branches: Rows of the batch that belong to each branch ('sup', 'strong'). Defaults to
                None, unknown.

        Returns:
            Output of the head, usually logits (B, K, h, w), and named scalar losses.
        """
        ...


class Purifier(Protocol):
    """Corrects pseudo labels before they are mixed and used."""

    def __call__(self, pseudo: PseudoLabel, samples: list) -> PseudoLabel:
        """Return corrected pseudo labels.

        Args:
            pseudo: The teacher's pseudo labels of the weak views, (B, H, W).
            samples: The weak views' samples, with ``geometry`` in their metainfo.

        Returns:
            Pseudo labels of the same shape.
        """
        ...


@runtime_checkable
class RatioSampler(Protocol):
    """A sampler that mixes labelled and unlabelled samples.

    Attributes:
        per_batch: Number of labelled and of unlabelled samples per batch on one rank.
    """

    per_batch: Sequence[int]


@runtime_checkable
class AverageUpdater(Protocol):
    """A hook that moves teachers towards their students."""

    def update_average(self, model: Any, update: int) -> None:
        """Update the teachers once.

        Args:
            model: A ``SemiSegmentor``.
            update: Number of previous updates.
        """
        ...
