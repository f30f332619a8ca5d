# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""DINOv3 (Simeoni et al., arXiv 2508.10104), the vision transformers, on timm's EVA blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..weights import Translation
from .foundation import FoundationBackbone, last_of_quarters, read_arch, resolve_taps, to_map
from .rotary_attention import RotaryAttention, rotary_embedding, rotary_periods

_Arch = dict[str, Any]

_TWELVE: _Arch = dict(num_layers=12, out_indices=(2, 5, 8, 11))
ARCHS: dict[str, _Arch] = {
    'small': dict(_TWELVE, embed_dims=384, num_heads=6),
    'small_plus': dict(_TWELVE, embed_dims=384, num_heads=6, swiglu=True),
    'base': dict(_TWELVE, embed_dims=768, num_heads=12),
    'large': dict(embed_dims=1024, num_layers=24, num_heads=16, out_indices=(4, 11, 17, 23)),
    'huge_plus': dict(
        embed_dims=1280, num_layers=32, num_heads=20, out_indices=(7, 15, 23, 31), swiglu=True
    ),
    '7b': dict(
        embed_dims=4096,
        num_layers=40,
        num_heads=32,
        out_indices=(9, 19, 29, 39),
        mlp_ratio=2,
        swiglu=True,
    ),
}
_ARCH_KEYS = {'embed_dims', 'num_layers', 'num_heads'}
_ARCH_OPTIONS = {'patch_size', 'mlp_ratio', 'swiglu', 'out_indices'}
# Meta's file for each architecture; 'large' and '7b' have a second one from satellite images.
_META_FILES = {
    'small': 'dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
    'small_plus': 'dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth',
    'base': 'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth',
    'large': 'dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth or '
    'dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth',
    'huge_plus': 'dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5.pth',
    '7b': 'dinov3_vit7b16_pretrain_lvd1689m-a955f4ea.pth or '
    'dinov3_vit7b16_pretrain_sat493m-a6675841.pth',
}
_LICENCE = (
    'under the DINOv3 License (commercial use allowed, redistribution only under the same terms, '
    'publications must acknowledge it)'
)
_REGISTERS = 4


@MODELS.register_module()
class DINOv3(FoundationBackbone):
    """DINOv3 vision transformer that returns the patch maps of some blocks.

    Every map passes the final LayerNorm; the class token and the four registers are dropped.
    Attention is PyTorch's scaled dot product with rotary positions, which are computed for each
    image size, always in fp32. Blocks after the last tap and the mask token are not built. The key
    has no bias, which was masked in training.

    Images must be RGB in [0, 1], normalised as for the weights: LVD-1689M (web images) with
    ImageNet's mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225); SAT-493M (satellite images,
    'large' and '7b') with mean (0.430, 0.411, 0.296) and std (0.213, 0.156, 0.143).

    Args:
        arch: 'small', 'small_plus', 'base', 'large', 'huge_plus' or '7b' (the plus models and 7b
            with SwiGLU); or a dict with **embed_dims**, **num_layers** and **num_heads**, and
            optionally **patch_size** (default 16), **mlp_ratio** (default 4), **swiglu** (default
            False) and **out_indices**.
        out_indices: Blocks whose maps are returned (taps), 0-based, ascending; negative counts from
            the end. None takes the last block of each quarter (large: [4, 11, 17, 23]).
        qkv_bias: Whether query and value have a trainable bias. A file without biases is read as
            zero biases. A file with non-zero biases is refused if this is False.
        norm_eps: Epsilon of all LayerNorms. Defaults to 1e-5, as in training.
        frozen: Whether to exclude the whole backbone from training.
        trainable: Parts of the names of the parameters to train, such as 'attn'; the others are
            frozen. None trains all.
        with_cp: Whether to recompute blocks in the backward pass to save memory.
        checkpoint: Local weight file with the names of Meta, timm or Hugging Face, or a checkpoint
            that contains this backbone; loaded by ``init_weights``. None initialises at random,
            with LayerScale 1.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``, another way to give the
            checkpoint.
        in_channels: Channels of the images. For more than three, a checkpoint's first layer is
            widened, see :func:`~mmseg_semi_rs.models.weights.widened`.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Examples:
        >>> tiny = dict(embed_dims=16, num_layers=2, num_heads=2)
        >>> backbone = DINOv3(arch=tiny, out_indices=[0, 1])
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 32, 48))]
        [(1, 16, 2, 3), (1, 16, 2, 3)]
    """

    family = 'DINOv3'
    block_prefix = 'blocks.'

    def __init__(
        self,
        arch: str | _Arch = 'base',
        out_indices: Sequence[int] | int | None = None,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        with_cp: bool = False,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        from timm.layers import LayerNorm, PatchEmbed

        BaseModule.__init__(self)
        settings = _settings(arch)
        width = settings['embed_dims']
        self.label = f'DINOv3 {arch!r}'
        self.origin = _origin(arch)
        self.depth = settings['num_layers']
        self.out_indices = resolve_taps(
            out_indices, settings['out_indices'], self.depth, self.label
        )
        self.patch_size = settings['patch_size']
        self.embed_dims = width
        self.head_width = width // settings['num_heads']
        self.qkv_bias = qkv_bias
        if settings['swiglu']:
            # One table of names serves both kinds of Hugging Face's feed-forward layers.
            self.name_aliases = {'.mlp.fc1.': '.mlp.fc1_x.'}
        norm = partial(LayerNorm, eps=norm_eps)
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=self.patch_size, in_chans=in_channels, embed_dim=width
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, _REGISTERS, width))
        # A plain assignment would call the property ``blocks`` below.
        self._modules['blocks'] = nn.ModuleList(
            _block(settings, norm, qkv_bias) for _ in range(self.out_indices[-1] + 1)
        )
        self.norm = norm(width)
        self._settle(frozen, trainable, with_cp, checkpoint, init_cfg)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, up to the last tap."""
        return self._modules['blocks']

    def _init_random(self) -> None:
        super()._init_random()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.reg_token, std=0.02)

    def adapt_weights(self, found: Translation, path: Path) -> None:
        """Split fused biases, drop those of the key, and check the rotary periods.

        Args:
            found: The tensors of a file under this package's names; changed in place.
            path: The file, for messages.

        Raises:
            ValueError: If the file has a bias that this model cannot hold, or other periods.
        """
        self._check_periods(found, path)
        for name in [name for name in found.tensors if name.endswith('.attn.qkv.bias')]:
            self._split_bias(found, path, name)
        biases = [name for name in found.tensors if name.endswith(('.attn.q_bias', '.attn.v_bias'))]
        if self.qkv_bias:
            if not biases:
                self._add_zero_biases(found)
            return
        for name in biases:
            if found.tensors.pop(name).any():
                raise ValueError(
                    f'The weight file {path} has biases of query and value that are not zero '
                    f'({found.sources[name]}), while {self.label} is built without them: set '
                    'qkv_bias=True.'
                )
            found.drop('biases of query and value, all zero', found.sources[name])

    def _check_periods(self, found: Translation, path: Path) -> None:
        stored = found.tensors.pop('rope.periods', None)
        if stored is None:
            return
        periods = rotary_periods(self.head_width, stored.device)
        # Released files store them rounded to bf16, with 8 significant bits.
        if stored.shape != periods.shape or not torch.allclose(stored.float(), periods, rtol=2**-7):
            raise ValueError(
                f'The weight file {path} has rotary periods {stored.flatten().tolist()[:3]} ..., '
                f'where {self.label} has {periods.tolist()[:3]} ...: set arch to the model that '
                'the file holds.'
            )
        found.drop('rotary periods, computed here in fp32', found.sources['rope.periods'])

    def _split_bias(self, found: Translation, path: Path, name: str) -> None:
        """Split Meta's fused bias, whose key part is masked, into those of query and value."""
        block = name.removesuffix('qkv.bias')
        bias, mask = found.tensors.pop(name), found.tensors.pop(name + '_mask', None)
        if mask is not None:
            bias = bias.masked_fill(mask == 0, 0)
            found.drop('mask of the bias of the key', found.sources[name + '_mask'])
        query, key, value = bias.chunk(3)
        if key.any():
            raise ValueError(
                f'The weight file {path} has a bias of the key ({found.sources[name]}) that is '
                f'neither zero nor masked, which {self.label} does not have: give a file of the '
                'released DINOv3 models.'
            )
        found.tensors |= {block + 'q_bias': query, block + 'v_bias': value}
        found.sources |= dict.fromkeys([block + 'q_bias', block + 'v_bias'], found.sources[name])

    def _add_zero_biases(self, found: Translation) -> None:
        """Add zero biases to a file that has none, which is what their absence means."""
        for index in range(len(self.blocks)):
            weight = f'blocks.{index}.attn.qkv.weight'
            for name in (f'blocks.{index}.attn.q_bias', f'blocks.{index}.attn.v_bias'):
                if weight in found.tensors:
                    found.tensors[name] = torch.zeros(found.tensors[weight].shape[0] // 3)
                    found.sources[name] = found.sources[weight]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract patch maps.

        Args:
            images: Shape (B, N, H, W), normalised as described in the class; H and W are multiples
                of ``patch_size``.

        Returns:
            For each of ``out_indices`` shape (B, C, H / patch, W / patch).

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        grid = self.grid(images)
        first = torch.cat([self.cls_token, self.reg_token], dim=1).expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, self.patch_embed(images)], dim=1)
        rotation = rotary_embedding(grid, self.head_width, images.device)
        return self._run_blocks(
            tokens, lambda found: to_map(self.norm(found[:, 1 + _REGISTERS :]), grid), rotation
        )


def _block(settings: _Arch, norm: Callable[[int], nn.Module], qkv_bias: bool) -> nn.Module:
    """Build one of timm's blocks with :class:`RotaryAttention` and an initial LayerScale of 1."""
    from timm.models.eva import EvaBlock

    width, heads = settings['embed_dims'], settings['num_heads']
    block = EvaBlock(
        width,
        heads,
        qkv_bias=False,
        mlp_ratio=settings['mlp_ratio'],
        swiglu_mlp=settings['swiglu'],
        swiglu_align_to=8,
        init_values=1.0,
        norm_layer=norm,
    )
    block.attn = RotaryAttention(width, heads, qkv_bias)
    return block


def _settings(arch: str | _Arch) -> _Arch:
    """Complete an architecture: width, depth, heads, patch size, feed-forward layer, taps."""
    arch = read_arch('DINOv3', arch, ARCHS, _ARCH_KEYS, _ARCH_OPTIONS)
    width, depth, heads = arch['embed_dims'], arch['num_layers'], arch['num_heads']
    if width % (4 * heads):
        raise ValueError(
            f'DINOv3 got embed_dims={width} and num_heads={heads}: give heads whose width '
            'embed_dims / num_heads is a multiple of 4, since positions turn pairs of channels '
            'along two axes.'
        )
    taps = last_of_quarters(depth)
    return dict(patch_size=16, mlp_ratio=4, swiglu=False, out_indices=taps) | arch


def _origin(arch: str | _Arch) -> str:
    if isinstance(arch, dict):
        return f'DINOv3 files are published by facebookresearch/dinov3 {_LICENCE}'
    mirror = f'vit_{arch}_patch16_dinov3{"" if arch == "7b" else "_qkvb"}.lvd1689m'
    return (
        f'it is published as {_META_FILES[arch]} by facebookresearch/dinov3, on request, and '
        f'without one as timm/{mirror} on the Hugging Face hub, {_LICENCE}'
    )
