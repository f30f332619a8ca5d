# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The stand-in for DINOv2: self-distillation between the photographs of two dates."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from .places import Place
from .tiles import GRID, PATCH, TILE, normalised, turned

DINO: dict[str, Any] = dict(
    type='DINOv2',
    arch=dict(embed_dims=64, num_layers=4, num_heads=2, out_indices=(3,)),
    img_size=TILE,
    patch_size=PATCH,
)

_META_NAMES = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^layers\.', 'blocks.'),
    (r'^ln1\.', 'norm.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.attn\.gamma1\.weight$', '.ls1.gamma'),
    (r'\.ffn\.gamma2\.weight$', '.ls2.gamma'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)


class SelfDistillation(nn.Module):
    """Patches tell the cluster of their spot on the other date, of which an average is sure.

    Args:
        batch: Places in a step.
        clusters: Number of prototypes.
        blanked: Share of patches that the student does not see, in [0, 1).
        jitter: Strength of changes of contrast, brightness and white balance.
    """

    def __init__(
        self, batch: int = 8, clusters: int = 256, blanked: float = 0.3, jitter: float = 0.2
    ) -> None:
        super().__init__()
        self.batch, self.blanked, self.jitter = batch, blanked, jitter
        backbone = MODELS.build(DINO)
        backbone.init_weights()
        head = nn.Sequential(nn.Linear(backbone.embed_dims, 256), nn.GELU(), nn.Linear(256, 64))
        self.student = nn.ModuleDict(
            dict(backbone=backbone, head=head, prototypes=nn.Linear(64, clusters, bias=False))
        )
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.updates = 0

    def cut(self, places: Sequence[Place], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut an overlapping tile of each date, turned and tinted apart, and match their patches.

        Args:
            places: B places.
            rng: Source of randomness.

        Returns:
            Images (2 B, 3, TILE, TILE), all of the first date before all of the second; and which
            patches show the same spots, (2 B, 64) int64, counted row by row.
        """
        tiles: list[list[np.ndarray]] = [[], []]
        matched: list[list[np.ndarray]] = [[], []]
        for place in places:
            last = (place.photographs.shape[1] - TILE) // PATCH - 1
            start, about = rng.integers(0, PATCH, 2), rng.integers(0, last + 1, 2)
            spots = []
            for date, photograph in enumerate(place.photographs):
                row, column = np.clip(about + rng.integers(-4, 5, 2), 0, last)
                rows, columns = np.mgrid[row : row + GRID, column : column + GRID]
                top, left = start + np.array([row, column]) * PATCH
                turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
                tile = turned(photograph[top : top + TILE, left : left + TILE], turns, mirrored)
                tint = rng.normal(0, 60) + rng.normal(0, 20, 3)
                changed = (tile - 128.0) * (1 + rng.normal(0, self.jitter)) + 128
                tiles[date].append(np.clip(changed + self.jitter * tint, 0, 255))
                spots.append(turned(rows * 1000 + columns, turns, mirrored).ravel())
            _, *found = np.intersect1d(spots[0], spots[1], return_indices=True)
            few = rng.choice(len(found[0]), 64, replace=False)
            for date in range(2):
                matched[date].append(found[date][few])
        images = normalised(tiles[0] + tiles[1], 'dinov2')
        return images, torch.from_numpy(np.stack(matched[0] + matched[1]))

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places; the average follows first."""
        self._follow()
        images, patches = self.cut(places, rng)
        with torch.no_grad():
            first, second = self._similarity(self.average, images, patches).chunk(2)
            target = torch.cat([balanced(second), balanced(first)])
        seen = torch.from_numpy(rng.uniform(size=(len(images), 1, GRID, GRID)) >= self.blanked)
        blanked = images * F.interpolate(seen.float(), scale_factor=PATCH)
        logits = self._similarity(self.student, blanked, patches) / 0.1
        return -(target * logits.log_softmax(1)).sum(1).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        self.updates += 1
        share = max(0.01, 1 / (self.updates + 1))
        for old, new in zip(self.average.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, share)

    @staticmethod
    def _similarity(network: Any, images: Tensor, patches: Tensor) -> Tensor:
        """Cosines (B * 64, clusters) of the chosen patches with the prototypes."""
        tokens = network['backbone'](images)[-1].flatten(2).transpose(1, 2)
        index = patches[..., None].expand(-1, -1, tokens.shape[-1])
        codes = F.normalize(network['head'](tokens.gather(1, index)), dim=-1).flatten(0, 1)
        return codes @ F.normalize(network['prototypes'].weight, dim=1).T

    def weights(self) -> dict[str, Tensor]:
        """The backbone's weights with the key names of Meta's release."""
        backbone: Any = self.student['backbone']
        renamed = {'mask_token': torch.zeros(1, backbone.embed_dims)}
        for key, value in backbone.state_dict().items():
            for pattern, replacement in _META_NAMES:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
        return renamed


def balanced(similarity: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Assign rows to columns so that all columns get equally much (Sinkhorn-Knopp)."""
    share = (similarity * sharpness).exp()
    for _ in range(rounds):
        share = share / share.sum(0, keepdim=True)
        share = share / share.sum(1, keepdim=True)
    return share
