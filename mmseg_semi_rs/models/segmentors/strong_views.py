# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Mixing, perturbing and scoring the strong views of the unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...structures import PseudoLabel
from ..decode_heads import DistillFeatures
from ..losses import RankSum, consistency_loss
from ..utils import CutMix
from ..utils.cutmix import paste


@dataclass(frozen=True)
class StrongView:
    """One strong view after CutMix, with the record of how its pixels were mixed.

    Attributes:
        images: Mixed images, shape (n, 3, H, W).
        partners: Index of the image that gave pixels to each image, shape (n,), int64.
        mask: True where pixels of the partner were pasted, shape (n, H, W), bool.
    """

    images: Tensor
    partners: Tensor
    mask: Tensor

    def mix(self, target: PseudoLabel) -> PseudoLabel:
        """Mix the pseudo labels of all B images in the same way as the pixels of this view."""
        return target.mix(self.partners, self.mask)


def draw_views(
    inputs: Mapping[str, Tensor], cutmix: CutMix | None, donors: int = 0
) -> list[StrongView]:
    """Draw partners and boxes for each strong view separately, and mix its images.

    Args:
        inputs: Views by name, each (B, 3, H, W). Those whose names begin with ``strong`` are used,
            in the order of their names.
        cutmix: Draws partners and boxes; None leaves the views as they are.
        donors: How many images, taken from the end of the batch, only provide pixels.

    Returns:
        One view per name, with n = B - donors images each.

    Raises:
        ValueError: If there is no strong view.
    """
    names = sorted(name for name in inputs if name.startswith('strong'))
    if not names:
        raise ValueError(
            f'A batch has the branches {sorted(inputs)}, but no strong view: name one or more '
            "branches of MultiBranch 'strong', 'strong_1', 'strong_2', ..."
        )
    views = []
    for name in names:
        images = inputs[name]
        if cutmix is None:
            partners = torch.arange(len(images) - donors, device=images.device)
            mask = torch.zeros_like(images[: len(partners), 0], dtype=torch.bool)
        else:
            partners, mask = cutmix.draw(images, donors)
        views.append(StrongView(paste(images, partners, mask), partners, mask))
    return views


def loss_of_views(
    logits: Tensor, targets: Sequence[PseudoLabel], counts: Sequence[RankSum]
) -> Tensor:
    """Return the mean of the consistency losses of V views.

    Args:
        logits: Logits of all views, one after the other, shape (V * n, K, H, W).
        targets: Pseudo labels of each view, (n, H, W).
        counts: Number of valid pixels of each view.
    """
    losses = [
        consistency_loss(scores, target.labels, target.weight, count, target.soft)
        for scores, target, count in zip(logits.chunk(len(targets)), targets, counts, strict=True)
    ]
    return torch.stack(losses).mean()


def perturb_features(
    feats: tuple[Tensor, ...], perturb: Callable[[Tensor], Tensor], rows: slice
) -> tuple[Tensor, ...]:
    """Apply a function to the features of some images, including features for distillation.

    Args:
        feats: Levels, each (B, C_i, h_i, w_i), possibly ``DistillFeatures``. For DPT a level is a
            list of the feature map and the class token.
        perturb: Changes one level, (B', C_i, h_i, w_i).
        rows: The B' images whose features are changed.
    """
    if isinstance(feats, DistillFeatures):
        return feats.perturbed(perturb, rows)

    def change(level: Any) -> Any:
        if not isinstance(level, Tensor):
            return [change(part) for part in level]
        if level.ndim == 2:  # a token
            return perturb(level[rows, :, None, None])[..., 0, 0]
        return perturb(level[rows])

    return tuple(change(level) for level in feats)


class ComplementaryDropout:
    r"""Divide feature channels between two views (UniMatch V2, arXiv 2410.10777).

    For each image a mask :math:`m \sim \text{Bernoulli}(0.5)^C` is drawn, which all levels with C
    channels share. The channels of the first view are multiplied by :math:`2m`, those of the second
    by :math:`2(1 - m)`. Each channel is thus kept in exactly one view, and the mean of both views
    is the original level.

    Args:
        keep: Share of images, in [0, 1), whose views both keep all channels, rounded down to a
            whole number of images. They are drawn anew for every batch. 0.5 as in the release.
        shared: Whether levels share masks, as published; False draws one for each level.

    Raises:
        ValueError: If ``keep`` is out of range.
    """

    def __init__(self, keep: float = 0.5, shared: bool = True) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 <= keep < 1:
            raise ValueError(
                f'semi_train_cfg.feature_dropout.keep={keep!r} must be within [0, 1): to keep the '
                'channels of all images set feature_dropout=None.'
            )
        self.keep, self.shared = keep, shared

    def __call__(self, feats: tuple[Tensor, ...], clean: int) -> tuple[Tensor, ...]:
        """Drop channels of the two views at the end of the batch, without a host synchronisation.

        Args:
            feats: Levels, each (clean + 2n, C_i, h_i, w_i); possibly ``DistillFeatures``, whose
                views at other sizes lose channels too.
            clean: Number of images before the two views; they are not changed.
        """
        first_map = feats[0] if isinstance(feats[0], Tensor) else feats[0][0]
        images = (len(first_map) - clean) // 2
        order = torch.randperm(images, device=first_map.device)
        whole = (order < int(images * self.keep))[:, None, None, None]

        masks: dict[int, Tensor] = {}

        def drop(level: Tensor) -> Tensor:
            width = level.shape[1]
            if width not in masks or not self.shared:
                masks[width] = level.new_empty(images, width, 1, 1).bernoulli_(0.5)
            mask = masks[width]
            first = torch.where(whole, 1.0, 2.0 * mask).to(level.dtype)
            untouched = level.new_ones(clean, level.shape[1], 1, 1)
            return level * torch.cat([untouched, first, 2.0 - first])

        return perturb_features(feats, drop, slice(None))
