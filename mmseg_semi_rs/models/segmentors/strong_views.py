# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What segmentors do with one or several strong views of the unlabelled images."""

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
    """One strong view after CutMix, and how its targets are mixed.

    Attributes:
        images: Shape (n, 3, H, W).
        partners: Whose pixels each image received, shape (n,), int64.
        mask: Where, shape (n, H, W), bool.
    """

    images: Tensor
    partners: Tensor
    mask: Tensor

    def mix(self, target: PseudoLabel) -> PseudoLabel:
        """Move the targets of all B images as the pixels of this view were moved."""
        return target.mix(self.partners, self.mask)


def draw_views(
    inputs: Mapping[str, Tensor], cutmix: CutMix | None, donors: int = 0
) -> list[StrongView]:
    """Draw partners and boxes for every strong view, each its own, and mix its images.

    Args:
        inputs: Views by name, each (B, 3, H, W); those whose names begin with ``strong`` are taken,
            in the order of their names.
        cutmix: None leaves the views as they are.
        donors: How many images, the last of the batch, only give pixels.

    Returns:
        Of n = B - donors images each.

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
    """Mean over the V views of their consistency losses.

    Args:
        logits: Of all views, one after the other, shape (V * n, K, H, W).
        targets: Of each, (n, H, W).
        counts: Valid pixels of each.
    """
    losses = [
        consistency_loss(scores, target.labels, target.weight, count, target.soft)
        for scores, target, count in zip(logits.chunk(len(targets)), targets, counts, strict=True)
    ]
    return torch.stack(losses).mean()


def perturb_features(
    feats: tuple[Tensor, ...], perturb: Callable[[Tensor], Tensor], rows: slice
) -> tuple[Tensor, ...]:
    """Send some images' features through a function, those for distillation included.

    Args:
        feats: Levels, (B, C_i, h_i, w_i) each; perhaps ``DistillFeatures``. With the class token
            that DPT reads, a level is a list of both.
        perturb: Changes a level, (B', C_i, h_i, w_i).
        rows: Which B' images.
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
    r"""Share the channels out between two views (UniMatch V2, arXiv 2410.10777).

    For each image a mask :math:`m \sim \text{Bernoulli}(0.5)^C` is drawn, which all levels of C
    channels share; the first view's channels are multiplied by :math:`2m`, the second view's by
    :math:`2(1 - m)`. Where one view sees a channel the other does not, and the mean of both is the
    level itself.

    Args:
        keep: Share of the images, in [0, 1), both of whose views keep all channels; rounded down to
            a number of images, which are drawn anew for every batch. 0.5 as released.
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
        """Drop channels of the two views that end the batch; makes no host sync.

        Args:
            feats: Levels, (clean + 2n, C_i, h_i, w_i) each; perhaps ``DistillFeatures``, whose
                views at other sizes lose channels too.
            clean: Images before the two views, which stay as they are.
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
