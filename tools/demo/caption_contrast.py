# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The stand-in for CLIP: rectangles of photographs against what people said about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_semi_rs.models.class_embeddings.text_tower import build_text_tower, resolve_arch

from .places import Place, write_caption
from .tiles import GRID, PATCH, TILE, normalised, turned

# A file has room for a wide vision tower or for a wide table of CLIP's 49 408 words: most of it
# are the 14 numbers of each word.
CLIP: dict[str, dict[str, Any]] = dict(
    vision=dict(width=64, layers=4, heads=2, patch_size=PATCH, image_size=TILE, embed_dim=64),
    text=dict(width=14, layers=2, heads=2, embed_dim=64, context_length=40),
)


class CaptionContrast(nn.Module):
    """Contrastive loss between rectangles of photographs and their captions, as CLIP's.

    The embedding of a rectangle is the mean over the patches it covers. Captions of one content
    count as one another's.

    Args:
        batch: Photographs in a step.
        regions: Rectangles of each, at most.
    """

    def __init__(self, batch: int = 12, regions: int = 10) -> None:
        super().__init__()
        self.batch, self.regions = batch, regions
        self.visual = MODELS.build(
            dict(type='CLIPVision', arch=CLIP['vision'], value_path=True, dense=True)
        )
        self.visual.init_weights()
        self.visual.proj.requires_grad_(True)
        arch = resolve_arch(CLIP['text'])
        self.text = build_text_tower(arch)
        embedding: Any = self.text.token_embedding
        embedding.sparse = True  # a few dozen words of 49 408 ever get a gradient
        self.tokenizer = open_clip.SimpleTokenizer(context_length=arch.text_cfg['context_length'])
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())

    def cut(
        self, places: Sequence[Place], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Cut a tile of each place, at one of two scales, and rectangles within.

        Args:
            places: B places.
            rng: Source of randomness.

        Returns:
            Images (B, 3, TILE, TILE); of R rectangles the image (R,) int64, the share of each patch
            (R, GRID * GRID), whose sum is 1, and the content.
        """
        images, owners, shares, contents = [], [], [], []
        for number, place in enumerate(places):
            size = place.photographs.shape[1]
            side = TILE // int(rng.choice((1, 1, 2)))
            top, left = (int(each) for each in rng.integers(0, size - side + 1, 2))
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            tile = place.photographs[int(rng.integers(2)), top : top + side, left : left + side]
            tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
            images.append(turned(tile, turns, mirrored))
            inside = [
                each
                for each in place.regions
                if top <= each.top
                and left <= each.left
                and each.top + each.height <= top + side
                and each.left + each.width <= left + side
            ]
            for chosen in rng.permutation(len(inside))[: self.regions]:
                row, column, height, width, content = inside[chosen]
                covered = np.zeros((side, side), np.float32)
                covered[row - top : row - top + height, column - left : column - left + width] = 1
                owners.append(number)
                covered = cv2.resize(covered, (GRID, GRID), interpolation=cv2.INTER_AREA)
                shares.append(turned(covered / covered.sum(), turns, mirrored).ravel())
                contents.append(content)
        owner, share = torch.tensor(owners), torch.from_numpy(np.stack(shares))
        return normalised(images, 'clip'), owner, share, contents

    def forward(self, places: Sequence[Place], rng: np.random.Generator) -> Tensor:
        """Loss of a batch of places."""
        images, owner, share, contents = self.cut(places, rng)
        patches = self.visual(images)[-1].flatten(2)
        regions = F.normalize(torch.einsum('rcp,rp->rc', patches[owner], share), dim=1)
        captions = [write_caption(content, rng) for content in contents]
        texts = F.normalize(self.text(self.tokenizer(captions)), dim=1)
        logits = self.logit_scale.exp().clamp(max=50.0) * regions @ texts.T
        same = torch.tensor([[float(one == other) for other in contents] for one in contents])
        target = same / same.sum(1, keepdim=True)
        return -(target * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2

    def weights(self) -> dict[str, Tensor]:
        """Both towers, with the key names of open_clip, which has the text tower at the top."""
        return {key.removeprefix('text.'): value for key, value in self.state_dict().items()}
