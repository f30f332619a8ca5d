# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""DPT decoder whose fusion stages follow the real size of the next level.

This is the decoder of UniMatch V2 and RS-MTDF (Ranftl et al., "Vision Transformers for Dense
Prediction", ICCV 2021, without read-out token and BatchNorm). mmseg's ``DPTHead`` doubles each map
and resizes the finer one to fit, so that a 37x37 patch grid gives 38, 76, 152, 304 instead of 37,
74, 148, 296.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


class DPTWidths(NamedTuple):
    """Channel widths of a DPT decoder.

    Attributes:
        in_channels: Width of the encoder's tokens.
        post_process_channels: Width of the four levels after their 1x1 projection.
        channels: Width of the fusion stages.
    """

    in_channels: int
    post_process_channels: tuple[int, int, int, int]
    channels: int


DPT_ARCHS: dict[str, DPTWidths] = {
    'small': DPTWidths(384, (48, 96, 192, 384), 64),
    'base': DPTWidths(768, (96, 192, 384, 768), 128),
    'large': DPTWidths(1024, (256, 512, 1024, 1024), 256),
    'giant': DPTWidths(1536, (1536, 1536, 1536, 1536), 384),
}


class ResidualConvUnit(BaseModule):
    """Pre-activation residual unit: ReLU, conv3x3, ReLU, conv3x3, plus identity.

    Args:
        channels: Width of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Refine a map of shape (B, channels, h, w) to one of the same shape."""
        return features + self.conv2(F.relu(self.conv1(F.relu(features))))


class FeatureFusionBlock(BaseModule):
    """One refinement stage: add the skip, refine, mix channels, resize to the next level.

    Args:
        channels: Width of input and output.
        with_skip: Whether the stage gets a skip. The deepest stage gets none and has no unit for
            it, because DDP stops at parameters that never get a gradient.
    """

    def __init__(self, channels: int, with_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualConvUnit(channels) if with_skip else None
        self.unit = ResidualConvUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse and resize.

        The 1x1 convolution runs before the upsampling. The result is the same in either order,
        since the weights of bilinear interpolation sum to one, but this one processes a quarter of
        the pixels.

        Args:
            features: Shape (B, channels, h, w).
            skip: Same shape; None for the deepest stage.
            size: Height and width of the result.

        Returns:
            Shape (B, channels, *size).
        """
        if self.skip_unit is not None and skip is not None:
            features = features + self.skip_unit(skip)
        features = self.project(self.unit(features))
        return F.interpolate(features, size, mode='bilinear', align_corners=True)


@MODELS.register_module()
class SizeMatchedDPTHead(BaseDecodeHead):
    """DPT decoder over four equally sized feature maps (taps) of a plain vision transformer.

    Each tap is projected by a 1x1 convolution and resized to 4x, 2x, 1x and 1/2 of the patch grid
    (37x37 -> 148, 74, 37, 19). From the deepest level on, every stage is upsampled to the actual
    size of the next level. Logits have twice the size of the finest level (296 for 518 px); the
    segmentor resizes them to the image with ``align_corners=True``.

    Args:
        arch: Preset of the three widths: 'small', 'base', 'large' or 'giant' (the DINOv2 sizes).
            None requires the next three arguments.
        in_channels: Width of each of the four taps. Defaults to the preset's.
        post_process_channels: Width of each level after projection. Defaults to the preset's.
        channels: Width of the fusion stages. Defaults to the preset's.
        in_index: Which four encoder outputs to read, finest level first. Defaults to (0, 1, 2, 3).
        align_corners: How the logits are resized to the image.
        dropout_ratio: Dropout before the classifier. Defaults to 0, as in the method.
        init_cfg: Initialisation; None keeps PyTorch's, as published.
        **kwargs: ``num_classes`` and the other arguments of
            :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`.

    Raises:
        ValueError: If ``arch`` is unknown, if neither it nor all three widths are given, or if a
            sequence does not have four entries.

    Examples:
        >>> head = SizeMatchedDPTHead(arch='small', num_classes=6)
        >>> taps = [torch.rand(1, 384, 37, 37) for _ in range(4)]
        >>> head(taps).shape
        torch.Size([1, 6, 296, 296])
    """

    def __init__(
        self,
        arch: str | None = None,
        in_channels: Sequence[int] | None = None,
        post_process_channels: Sequence[int] | None = None,
        channels: int | None = None,
        in_index: Sequence[int] = (0, 1, 2, 3),
        align_corners: bool = True,
        dropout_ratio: float = 0.0,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if arch is not None:
            if arch not in DPT_ARCHS:
                raise ValueError(
                    f'SizeMatchedDPTHead knows the archs {sorted(DPT_ARCHS)}, got arch={arch!r}; '
                    'for other widths give in_channels, post_process_channels and channels.'
                )
            preset = DPT_ARCHS[arch]
            in_channels = in_channels or [preset.in_channels] * 4
            post_process_channels = post_process_channels or preset.post_process_channels
            channels = channels or preset.channels
        if in_channels is None or post_process_channels is None or channels is None:
            raise ValueError(
                'SizeMatchedDPTHead needs arch or all of in_channels, post_process_channels and '
                f'channels, got arch={arch!r}, in_channels={in_channels}, '
                f'post_process_channels={post_process_channels}, channels={channels}.'
            )
        for name, values in (
            ('in_channels', in_channels),
            ('post_process_channels', post_process_channels),
            ('in_index', in_index),
        ):
            if len(values) != 4:
                raise ValueError(
                    f'SizeMatchedDPTHead has four levels, so {name} needs four entries, '
                    f'got {list(values)}.'
                )
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(in_index),
            input_transform='multiple_select',
            align_corners=align_corners,
            dropout_ratio=dropout_ratio,
            init_cfg=init_cfg,
            **kwargs,
        )
        widths = list(post_process_channels)
        self.projects = nn.ModuleList(
            nn.Conv2d(tap, width, 1) for tap, width in zip(in_channels, widths, strict=True)
        )
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.layer_rn = nn.ModuleList(
            nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in widths
        )
        # Deepest level first, in the order in which they run.
        self.fusion_blocks = nn.ModuleList(
            FeatureFusionBlock(channels, with_skip=stage > 0) for stage in range(4)
        )
        self.output_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def pyramid(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Project and resize the taps.

        Args:
            inputs: Encoder outputs, each (B, in_channels[i], h, w).

        Returns:
            Four maps of width ``channels`` at 4x, 2x, 1x and 1/2 (rounded up) of their tap's size.
        """
        taps = self._transform_inputs(inputs)
        return [
            layer_rn(resize(project(tap)))
            for tap, project, resize, layer_rn in zip(
                taps, self.projects, self.resizes, self.layer_rn, strict=True
            )
        ]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs: Encoder outputs; those named by ``in_index`` are read.

        Returns:
            Logits, shape (B, out_channels, 2 * h1, 2 * w1), where (h1, w1) is the size of the
            finest level of :meth:`pyramid`.
        """
        levels = self.pyramid(inputs)[::-1]
        height, width = levels[-1].shape[2:]
        sizes = [(level.shape[2], level.shape[3]) for level in levels[1:]]
        sizes.append((2 * height, 2 * width))
        features = self.fusion_blocks[0](levels[0], None, sizes[0])
        for block, skip, size in zip(self.fusion_blocks[1:], levels[1:], sizes[1:], strict=True):
            features = block(features, skip, size)
        return self.cls_seg(torch.relu(self.output_conv(features)))
