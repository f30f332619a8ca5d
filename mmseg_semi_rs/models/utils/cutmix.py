# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""CutMix of strong views and their pseudo labels."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor


class CutMix:
    """Draws which box of which other image each image receives (Yun et al., ICCV 2019).

    Box and partner are drawn on the host with Python's ``random``. Drawing therefore needs no
    device synchronisation and follows the per-step seeding of ``SemiTrainLoop``.

    Args:
        prob: Probability that an image receives a box.
        area: Range of the box's area as a share of the image. Defaults to (0.02, 0.4).
        aspect: Range of the box's height / width. Defaults to (0.3, 1 / 0.3).
        partner: ``'roll'``: image i receives pixels of image i - s, with s drawn from 1 to B - 1,
            so never its own. ``'reverse'``: of image B - 1 - i, as released; the middle image of an
            odd batch then stays unchanged.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        partner: str = 'roll',
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'cutmix prob={prob} must be in [0, 1].')
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f'cutmix area={area} must be a range within (0, 1].')
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f'cutmix aspect={aspect} must be a positive range.')
        if partner not in ('roll', 'reverse'):
            raise ValueError(f"cutmix partner={partner!r} must be 'roll' or 'reverse'.")
        self.prob, self.area, self.aspect, self.partner = prob, area, aspect, partner

    def draw_partners(self, batch: int, donors: int = 0) -> Tensor:
        """Draw the image from which each image receives pixels.

        Args:
            batch: Number of images.
            donors: How many images, taken from the end of the batch, only provide pixels; then all
                pixels come from them. Defaults to 0: all images provide and receive.

        Returns:
            Shape (B - donors,), int64, CPU. Entry i equals i only if there is no other image to
            paste (B = 1, or the middle of an odd batch with 'reverse').
        """
        own = torch.arange(batch - donors)
        if donors:
            return batch - donors + (own + random.randrange(donors)) % donors
        if self.partner == 'reverse':
            return own.flip(0)
        shift = random.randrange(1, batch) if batch > 1 else 0
        return (own - shift) % batch

    def draw_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw one box: its area once, then aspect and position until it lies inside the image.

        Long boxes are therefore drawn less often than short ones of the same area, as in the
        releases.

        Args:
            height: Image height in pixels.
            width: Image width in pixels.

        Returns:
            Top, left, height and width in pixels.

        Raises:
            ValueError: If no box fits in 10,000 attempts.
        """
        area = height * width * random.uniform(*self.area)
        for _ in range(10_000):
            aspect = random.uniform(*self.aspect)
            box_h, box_w = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
            top, left = random.randrange(height), random.randrange(width)
            if 0 < box_h <= height - top and 0 < box_w <= width - left:
                return top, left, box_h, box_w
        raise ValueError(
            f'No box with area={self.area} (share of the image) and aspect={self.aspect} fits '
            f'into an image of {height} x {width} pixels: widen the ranges.'
        )

    def draw_mask(self, partners: Tensor, height: int, width: int) -> Tensor:
        """Draw the pasted region of every image.

        Args:
            partners: Output of ``draw_partners``, shape (B,).
            height: Image height in pixels.
            width: Image width in pixels.

        Returns:
            Shape (B, H, W), bool, CPU; all False for an image that is its own partner.
        """
        mask = torch.zeros(len(partners), height, width, dtype=torch.bool)
        for index, partner in enumerate(partners.tolist()):
            if index != partner and random.random() < self.prob:
                top, left, box_h, box_w = self.draw_box(height, width)
                mask[index, top : top + box_h, left : left + box_w] = True
        return mask

    def draw(self, images: Tensor, donors: int = 0) -> tuple[Tensor, Tensor]:
        """Draw partners and regions for a batch, and copy them to its device.

        Args:
            images: Shape (B, C, H, W).
            donors: See :meth:`draw_partners`.

        Returns:
            Partners, shape (B - donors,), int64, and pasted regions, shape (B - donors, H, W),
            bool; for ``PseudoLabel.mix``.
        """
        partners = self.draw_partners(len(images), donors)
        mask = self.draw_mask(partners, *images.shape[-2:])
        return (
            partners.to(images.device, non_blocking=True),
            mask.to(images.device, non_blocking=True),
        )


def paste(images: Tensor, partners: Tensor, mask: Tensor) -> Tensor:
    """Paste regions of other images of the batch.

    Args:
        images: Shape (B, C, H, W).
        partners: From :meth:`CutMix.draw`, shape (n,), for the first n images.
        mask: Likewise, shape (n, H, W), bool.

    Returns:
        Shape (n, C, H, W); the input is not changed.
    """
    return torch.where(mask[:, None], images[partners], images[: len(partners)])
