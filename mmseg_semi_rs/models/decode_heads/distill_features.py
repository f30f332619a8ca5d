# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Feature levels that carry what a distillation head needs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor


class DistillFeatures(tuple[Tensor, ...]):
    """The levels of an encoder, plus the images they come from and views at other sizes.

    A tuple, so that any decode head, auxiliary head or neck takes it for the plain levels.

    Args:
        levels: Feature maps, (B, C_i, h_i, w_i) each.
        images: The normalised images, shape (B, 3, H, W).
        views: Deepest feature map, (B, C, h, w), of the same encoder on the images resized to
            each (height, width) in pixels. Defaults to none.

    Attributes:
        images: See above.
        views: See above.
    """

    images: Tensor
    views: dict[tuple[int, int], Tensor]

    def __new__(
        cls,
        levels: Iterable[Tensor],
        images: Tensor,
        views: Mapping[tuple[int, int], Tensor] | None = None,
    ) -> DistillFeatures:
        """Make the tuple and attach the two attributes."""
        features = super().__new__(cls, levels)
        features.images = images
        features.views = dict(views or {})
        return features

    def with_level(self, index: int, level: Tensor) -> DistillFeatures:
        """Return a copy in which the level at ``index`` (may be negative) is another map."""
        levels = list(self)
        levels[index] = level
        return DistillFeatures(levels, self.images, self.views)

    def perturbed(self, perturb: Callable[[Tensor], Tensor], rows: slice) -> DistillFeatures:
        """Return some images' features with all maps, views included, sent through a function.

        Args:
            perturb: Changes a map, (B', C, h, w).
            rows: Which images of the batch.

        Returns:
            Of B' images.
        """
        views = {size: perturb(view[rows]) for size, view in self.views.items()}
        return DistillFeatures([perturb(level[rows]) for level in self], self.images[rows], views)
