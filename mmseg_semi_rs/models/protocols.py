# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the segmentors expect of the parts they are given."""

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
        """Decode and compare features in one pass.

        Args:
            feats: What the segmentor's ``extract_feat`` returned.
            valid: False on padding, shape (B, H, W), bool, at image size.
            branches: Where in the batch the images of each branch ('sup', 'strong') are. Defaults
                to None, unknown.

        Returns:
            Logits (B, K, h, w), or what else the head gives, and named scalar losses.
        """
        ...


class Purifier(Protocol):
    """Corrects pseudo labels before they are mixed and used."""

    def __call__(self, pseudo: PseudoLabel, samples: list) -> PseudoLabel:
        """Return corrected targets.

        Args:
            pseudo: The teacher's targets for the weak views, (B, H, W).
            samples: The weak views' samples, with ``geometry`` in their metainfo.

        Returns:
            Targets of the same shape.
        """
        ...


@runtime_checkable
class RatioSampler(Protocol):
    """A sampler that mixes labelled and unlabelled samples.

    Attributes:
        per_batch: Labelled and unlabelled samples of a batch on one rank.
    """

    per_batch: Sequence[int]


@runtime_checkable
class AverageUpdater(Protocol):
    """A hook that moves teachers towards their students."""

    def update_average(self, model: Any, update: int) -> None:
        """Make an update.

        Args:
            model: A ``SemiSegmentor``.
            update: How many came before.
        """
        ...
