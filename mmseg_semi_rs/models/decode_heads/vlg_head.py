# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Vision-language guided decoder: turns similarity with class embeddings into one mask per class.

It follows SemiVL (Hoyer et al., "SemiVL: Semi-Supervised Semantic Segmentation with Vision-Language
Guidance", ECCV 2024), as used by both students of Co2S (arXiv 2512.23035).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from .vlg_parts import GROUP_WIDTH, SemanticReasoning, SpatialReasoning, UpBlock


@MODELS.register_module()
class VLGHead(BaseDecodeHead):
    """Decodes the cosine similarity between patches and class embeddings, class by class.

    The deep map is compared with N class embeddings. The N similarity maps, folded into the batch,
    pass through a 7x7 convolution, spatial reasoning (ASPP), semantic reasoning (a transformer over
    the classes at one place, the only step in which classes interact) and two upsampling blocks
    with the middle and the shallow map as skips. No weight depends on N. Whatever is the same for
    all classes (skips, and their share of the convolutions) is computed once per image. There is no
    BatchNorm and no dropout.

    The patch grid may have any size. The logits have four times the size of the deep map; the
    segmentor resizes them to the image with ``align_corners=False``.

    Args:
        class_embedding: Config of a module that returns class embeddings, shape (N, C), and has the
            attributes ``num_classes`` and ``channels``, such as ``TextEmbedding`` or
            ``LearnableQueries``. It is built with ``num_classes`` unless it sets its own.
        in_channels: Width of the shallow, middle and deep map; the last is also the width of the
            class embeddings.
        num_classes: N.
        in_index: Which encoder outputs are the shallow, middle and deep map. Defaults to (0, 1, 2).
        channels: Width of the spatial and semantic reasoning; a multiple of 16.
        text_channels: Width of the class embeddings in the semantic reasoning.
        up_channels: Width of the two upsampling blocks. Defaults to (64, 32).
        skip_channels: Width of the projected middle and shallow map. Defaults to (32, 16).
        reasoning_layers: Layers of the semantic reasoning; with 0 the classes do not interact.
        heads: Attention heads of each layer.
        pool: Side, in patches, of the cells in which classes are compared.
        dilations: Dilations of the spatial reasoning, in patches. Defaults to (6, 12, 18).
        init_cfg: Initialisation; None keeps PyTorch's, as published.
        **kwargs: ``loss_decode`` and the other arguments of
            :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`.

    Raises:
        ValueError: If a width does not fit, or if the class embedding has another number of classes
            or another width.

    Examples:
        >>> head = VLGHead(dict(type='LearnableQueries', channels=48), [64, 64, 48], num_classes=5)
        >>> levels = [torch.rand(2, width, 8, 8) for width in (64, 64, 48)]
        >>> head(levels).shape
        torch.Size([2, 5, 32, 32])
    """

    def __init__(
        self,
        class_embedding: dict[str, Any],
        in_channels: Sequence[int],
        num_classes: int,
        in_index: Sequence[int] = (0, 1, 2),
        channels: int = 128,
        text_channels: int = 128,
        up_channels: Sequence[int] = (64, 32),
        skip_channels: Sequence[int] = (32, 16),
        reasoning_layers: int = 2,
        heads: int = 4,
        pool: int = 4,
        dilations: Sequence[int] = (6, 12, 18),
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, values, count in (
            ('in_channels', in_channels, 3),
            ('in_index', in_index, 3),
            ('up_channels', up_channels, 2),
            ('skip_channels', skip_channels, 2),
        ):
            if len(values) != count:
                raise ValueError(f'VLGHead needs {count} entries in {name}, got {list(values)}.')
        if any(width % GROUP_WIDTH for width in (channels, *up_channels)):
            raise ValueError(
                f'VLGHead normalises groups of {GROUP_WIDTH} channels, so channels and up_channels '
                f'must be multiples of it, got {channels} and {list(up_channels)}.'
            )
        if skip_channels[0] >= channels or skip_channels[1] >= up_channels[0]:
            raise ValueError(
                'VLGHead makes room for a skip in the input of each upsampling block, so '
                f'skip_channels={list(skip_channels)} must be below channels={channels} and '
                f'up_channels[0]={up_channels[0]}.'
            )
        if (channels + text_channels) % heads:
            raise ValueError(
                f'VLGHead splits channels + text_channels = {channels + text_channels} over the '
                f'attention heads, which heads={heads} does not divide.'
            )
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            num_classes=num_classes,
            # One channel per class, also for two classes; mmseg would warn without this argument.
            out_channels=num_classes,
            in_index=list(in_index),
            input_transform='multiple_select',
            dropout_ratio=0.0,
            init_cfg=init_cfg,
            **kwargs,
        )
        del self.conv_seg  # it would never be trained
        self.class_embedding = MODELS.build(
            class_embedding, default_args=dict(num_classes=num_classes)
        )
        self._check_embedding()
        self.similarity_conv = nn.Conv2d(1, channels, 7, padding=3)
        self.spatial = SpatialReasoning(channels, dilations)
        self.semantic = nn.ModuleList(
            SemanticReasoning(channels, text_channels, heads, pool) for _ in range(reasoning_layers)
        )
        if self.semantic:
            self.text_proj = nn.Sequential(nn.Linear(in_channels[2], text_channels), nn.ReLU())
        shallow, middle, _ = in_channels
        self.middle_proj = _skip_projection(middle, skip_channels[0])
        self.shallow_proj = _skip_projection(shallow, skip_channels[1])
        self.up1 = UpBlock(channels, up_channels[0], skip_channels[0])
        self.up2 = UpBlock(up_channels[0], up_channels[1], skip_channels[1])
        self.mask_conv = nn.Conv2d(up_channels[1], 1, 3, padding=1)

    def _check_embedding(self) -> None:
        embedding = self.class_embedding
        name = type(embedding).__name__
        if embedding.num_classes != self.num_classes:
            raise ValueError(
                f'VLGHead has num_classes={self.num_classes}, but its {name} has '
                f'{embedding.num_classes} classes: give both the same number.'
            )
        if embedding.channels != self.in_channels[2]:
            raise ValueError(
                f'VLGHead compares its deep map with class embeddings, but in_channels[2]='
                f'{self.in_channels[2]} while its {name} has {embedding.channels} channels: give '
                'both the same width.'
            )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs: Encoder outputs, each (B, in_channels[i], h, w); those named by ``in_index`` are
                read. The shallow and middle map may differ in size from the deep map.

        Returns:
            Logits, shape (B, num_classes, 4 * h, 4 * w).
        """
        shallow, middle, deep = self._transform_inputs(inputs)
        embedding = F.normalize(self.class_embedding(), dim=1)
        with torch.autocast(deep.device.type, enabled=False):  # cosines differ only by hundredths
            deep = F.normalize(deep.float(), dim=1)
            similarity = torch.einsum('bchw,nc->bnhw', deep, embedding.float())
        maps = self.spatial(self.similarity_conv(similarity.flatten(0, 1).unsqueeze(1)))
        if self.semantic:
            text = self.text_proj(embedding)
            for layer in self.semantic:
                maps = layer(maps, text)
        maps = self.up1(maps, self.middle_proj(middle))
        maps = self.up2(maps, self.shallow_proj(shallow))
        return self.mask_conv(maps).reshape(deep.shape[0], self.num_classes, *maps.shape[2:])


def _skip_projection(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True))
