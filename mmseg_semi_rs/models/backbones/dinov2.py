# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""DINOv2 (Oquab et al., arXiv 2304.07193), without registers, on mmpretrain's VisionTransformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ... import compat
from .foundation import FoundationBackbone, last_of_quarters, read_arch, resolve_taps, to_map

_Arch = dict[str, Any]

# Widths, depths and heads of the released models, with the taps of their DPT heads (Oquab et al.,
# section 7.4; 0-based), which RS-MTDF and UniMatch V2 use too.
ARCHS: dict[str, _Arch] = {
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, out_indices=(2, 5, 8, 11)),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, out_indices=(2, 5, 8, 11)),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, out_indices=(4, 11, 17, 23)),
    'giant': dict(
        embed_dims=1536, num_layers=40, num_heads=24, out_indices=(9, 19, 29, 39), swiglu=True
    ),
}
_ARCH_KEYS = {'embed_dims', 'num_layers', 'num_heads'}
_ARCH_OPTIONS = {'feedforward_channels', 'mlp_ratio', 'swiglu', 'out_indices'}


def resize_position(embedding: Tensor, stored: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding as DINOv2 does.

    Bicubic, without antialiasing, from H x W stored to h x w wanted patches by the scale factor ((h
    + 0.1) / H, (w + 0.1) / W).

    Args:
        embedding: Shape (1, 1 + H * W, C), class token first.
        stored: H, W.
        grid: h, w.

    Returns:
        Shape (1, 1 + h * w, C); the input itself if the grids are equal.
    """
    if stored == grid:
        return embedding
    patches = embedding[:, 1:].unflatten(1, stored).permute(0, 3, 1, 2)
    factor = [(to + 0.1) / at for to, at in zip(grid, stored, strict=True)]
    # Bicubic interpolation in half precision is inexact, and missing on some devices.
    patches = F.interpolate(patches.float(), scale_factor=factor, mode='bicubic')
    patches = patches.to(embedding.dtype).flatten(2).transpose(1, 2)
    return torch.cat([embedding[:, :1], patches], dim=1)


@MODELS.register_module()
class DINOv2(FoundationBackbone):
    """DINOv2 vision transformer that returns the patch maps of some blocks.

    Every map passes the final LayerNorm; the class token is dropped. Attention is PyTorch's scaled
    dot product. Images may have any size in whole patches: the position embedding is resized in the
    forward pass, while the stored one is kept as trained. There is no mask token, and blocks after
    the last tap are not built.

    Args:
        arch: 'small', 'base', 'large' or 'giant' (with SwiGLU); or a dict with **embed_dims**,
            **num_layers** and **num_heads**, and optionally **feedforward_channels** or
            **mlp_ratio** (default 4), **swiglu** (default False) and **out_indices**.
        out_indices: Blocks whose maps are returned (taps), 0-based, ascending; negative counts from
            the end. None takes [2, 5, 8, 11] (small, base), [4, 11, 17, 23] (large), [9, 19, 29,
            39] (giant), or, for a dict, the last block of each quarter.
        img_size: Side in pixels for which the position embedding is stored; 518 in the released
            files.
        patch_size: Side of a patch in pixels.
        layer_scale: Initial LayerScale, > 0; a checkpoint overrides it.
        drop_path_rate: Stochastic depth of the last block, in [0, 1); it rises linearly over the
            whole depth.
        frozen: Whether to exclude the whole backbone from training.
        trainable: Parts of the names of the parameters to train, such as 'attn'; the others are
            frozen. None trains all.
        with_cp: Whether to recompute blocks in the backward pass to save memory.
        checkpoint: Local weight file with the names of Meta, timm, Hugging Face or mmpretrain, or a
            checkpoint that contains this backbone; loaded by ``init_weights``. None initialises at
            random.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``, another way to give the
            checkpoint.
        in_channels: Channels of the images. For more than three, a checkpoint's first layer is
            widened, see :func:`~mmseg_semi_rs.models.weights.widened`.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Examples:
        >>> tiny = dict(embed_dims=16, num_layers=2, num_heads=2)
        >>> backbone = DINOv2(arch=tiny, img_size=56, out_indices=[0, 1])
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 28, 42))]
        [(1, 16, 2, 3), (1, 16, 2, 3)]
    """

    family = 'DINOv2'
    block_prefix = 'layers.'
    position_name = 'pos_embed'

    def __init__(
        self,
        arch: str | _Arch = 'small',
        out_indices: Sequence[int] | int | None = None,
        img_size: int = 518,
        patch_size: int = 14,
        layer_scale: float = 1.0,
        drop_path_rate: float = 0.0,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        with_cp: bool = False,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        BaseModule.__init__(self)
        settings = _settings(arch)
        label = f'DINOv2 {arch!r}' if isinstance(arch, str) else f'DINOv2 {settings}'
        if img_size < patch_size or img_size % patch_size:
            raise ValueError(
                f'{label} stores positions for img_size={img_size}, which must be a multiple of '
                f'patch_size={patch_size}: give '
                f'{max(1, round(img_size / patch_size)) * patch_size}.'
            )
        if layer_scale <= 0 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f'{label} got layer_scale={layer_scale} and drop_path_rate={drop_path_rate}: give '
                'layer_scale > 0 and drop_path_rate in [0, 1).'
            )
        depth = settings['num_layers']
        taps = resolve_taps(out_indices, settings.pop('out_indices'), depth, label)
        swiglu = settings.pop('swiglu')
        built = taps[-1] + 1
        # The rate of a block depends on the whole depth, not on how many blocks are built.
        drop_rates = np.linspace(0, drop_path_rate, depth)[:built].tolist()
        ffn_type = 'swiglu_fused' if swiglu else 'origin'
        network: Any = compat.import_mmpretrain().VisionTransformer(
            arch={**settings, 'num_layers': built},
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=list(taps),
            norm_cfg=dict(type='LN', eps=1e-6),
            out_type='featmap',
            layer_scale_init_value=layer_scale,
            layer_cfgs=[dict(drop_path_rate=rate, ffn_type=ffn_type) for rate in drop_rates],
        )
        self.arch_settings: _Arch = network.arch_settings
        self.embed_dims = settings['embed_dims']
        self.patch_embed: nn.Module = network.patch_embed
        self.patch_resolution: tuple[int, int] = tuple(network.patch_resolution)
        self.cls_token: nn.Parameter = network.cls_token
        self.pos_embed: nn.Parameter = network.pos_embed
        self.layers: nn.ModuleList = network.layers
        self.ln1: nn.Module = network.ln1
        self._register_load_state_dict_pre_hook(self._fit_stored_position)
        if swiglu:
            self.name_aliases = {'.ffn.layers.0.0.': '.ffn.w12.', '.ffn.layers.1.': '.ffn.w3.'}
            for block, rate in zip(network.layers, drop_rates, strict=True):
                # mmpretrain does not apply stochastic depth to this layer.
                block.ffn.dropout_layer = DropPath(rate)
        self.label = label
        self.origin = _origin(arch)
        self.depth = depth
        self.out_indices = taps
        self.patch_size = patch_size
        self._settle(frozen, trainable, with_cp, checkpoint, init_cfg)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, up to the last tap."""
        return self.layers

    def _init_random(self) -> None:
        super()._init_random()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def _fit_stored_position(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Resize the position embedding of a state dict for another image size (pre-load hook)."""
        name = prefix + 'pos_embed'
        if name in state_dict and state_dict[name].shape != self.pos_embed.shape:
            state_dict[name] = self.fit_position(state_dict[name])

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding for an image of ``grid`` patches, see :func:`resize_position`.

        Args:
            grid: Numbers of rows and columns of patches, h and w.

        Returns:
            Shape (1, 1 + h * w, C).
        """
        return resize_position(self.pos_embed, self.patch_resolution, grid)

    def fit_position(self, embedding: Tensor) -> Tensor:
        """Resize a stored position embedding to this model's own grid.

        Args:
            embedding: Shape (1, 1 + n * n, C).

        Returns:
            Shape (1, 1 + h * w, C).
        """
        side = round((embedding.shape[1] - 1) ** 0.5)
        return resize_position(embedding, (side, side), self.patch_resolution)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract patch maps.

        Args:
            images: Shape (B, N, H, W), normalised with ImageNet mean and std; H and W are multiples
                of ``patch_size``.

        Returns:
            For each of ``out_indices`` shape (B, C, H / patch, W / patch).

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        grid = self.grid(images)
        patches = self.patch_embed(images)[0]
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1)
        tokens = tokens + self.position_embedding(grid)
        return self._run_blocks(tokens, lambda found: to_map(self.ln1(found[:, 1:]), grid))


def _settings(arch: str | _Arch) -> _Arch:
    """Complete an architecture: widths, depth, heads, feed-forward width, taps, SwiGLU."""
    settings = read_arch('DINOv2', arch, ARCHS, _ARCH_KEYS, _ARCH_OPTIONS)
    width, depth = settings['embed_dims'], settings['num_layers']
    if width % settings['num_heads']:
        raise ValueError(
            f'DINOv2 got embed_dims={width} and num_heads={settings["num_heads"]}: give heads that '
            'divide the width.'
        )
    ratio = settings.pop('mlp_ratio', 4)
    settings.setdefault('feedforward_channels', int(width * ratio))
    settings.setdefault('swiglu', False)
    settings.setdefault('out_indices', last_of_quarters(depth))
    return settings


def _origin(arch: str | _Arch) -> str:
    if isinstance(arch, str):
        return (
            f'it is published as dinov2_vit{arch[0]}14_pretrain.pth by facebookresearch/dinov2 '
            '(Apache-2.0)'
        )
    return 'DINOv2 files are published by facebookresearch/dinov2 (Apache-2.0)'
