# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Feature levels with the additional data that a distillation head needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor


class DistillFeatures(tuple[Tensor, ...]):
    """Levels of an encoder, with the images they come from and features at other image sizes.

    It is a tuple, so that decode heads, auxiliary heads and necks can use it as the plain levels.

    Args:
        levels: Feature maps, each (B, C_i, h_i, w_i).
        images: The normalised images, shape (B, 3, H, W).
        views: By (height, width) in pixels: the deepest feature map, (B, C, h, w), of the same
            encoder on the images resized to that size. Defaults to none.

    Attributes:
        images: See Args.
        views: See Args.
    """

    images: Tensor
    views: dict[tuple[int, int], Tensor]

    def __new__(
        cls,
        levels: Iterable[Tensor],
        images: Tensor,
        views: Mapping[tuple[int, int], Tensor] | None = None,
    ) -> DistillFeatures:
        """Create the tuple and set the two attributes."""
        features = super().__new__(cls, levels)
        features.images = images
        features.views = dict(views or {})
        return features

    def with_level(self, index: int, level: Tensor) -> DistillFeatures:
        """Return a copy with another map at ``index``, which may be negative."""
        levels = list(self)
        levels[index] = level
        return DistillFeatures(levels, self.images, self.views)

    def perturbed(self, perturb: Callable[[Tensor], Tensor], rows: slice) -> DistillFeatures:
        """Select some images, and apply a function to all their maps, ``views`` included.

        Args:
            perturb: Changes a map, (B', C, h, w).
            rows: The B' images of the batch to select.

        Returns:
            The features of these B' images.
        """
        views = {size: perturb(view[rows]) for size, view in self.views.items()}
        return DistillFeatures([perturb(level[rows]) for level in self], self.images[rows], views)
