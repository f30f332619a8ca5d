# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""CLIP's vision tower (Radford et al., arXiv 2103.00020) as a backbone, built on open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..weights import WeightFile, read_neighbour
from .clip_blocks import LeanQuickGELU, run_both_paths, run_value_path
from .foundation import FoundationBackbone, read_arch, resolve_taps, to_map

_Arch = dict[str, Any]

_ARCH_KEYS = {'width', 'layers', 'heads', 'patch_size', 'image_size'}
_ARCH_OPTIONS = {'mlp_ratio', 'quick_gelu', 'embed_dim'}
# OpenAI's weight file for each architecture (openai/CLIP, MIT).
_OPENAI_FILES = {
    'ViT-B-32': 'ViT-B-32.pt',
    'ViT-B-16': 'ViT-B-16.pt',
    'ViT-L-14': 'ViT-L-14.pt',
    'ViT-L-14-336': 'ViT-L-14-336px.pt',
}
_PLAIN_EXAMPLES = ('ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-L-14-quickgelu', 'ViT-H-14')


def resize_position(embedding: Tensor, stored: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resize a position embedding by bicubic interpolation without antialiasing.

    Args:
        embedding: Shape (1 + H * W, C), class token first.
        stored: H, W.
        grid: Wanted h, w.

    Returns:
        Shape (1 + h * w, C); the input itself if the grids are equal.
    """
    if stored == grid:
        return embedding
    patches = embedding[1:].unflatten(0, stored).permute(2, 0, 1)[None]
    # Bicubic interpolation in half precision is inexact, and missing on some devices.
    patches = F.interpolate(patches.float(), size=grid, mode='bicubic')[0]
    patches = patches.to(embedding.dtype).flatten(1).transpose(0, 1)
    return torch.cat([embedding[:1], patches])


@MODELS.register_module()
class CLIPVision(FoundationBackbone):
    """CLIP vision transformer that returns the patch maps of some blocks.

    The maps are the outputs of the blocks, before the final LayerNorm and the projection, as in
    RS-MTDF's CLIP target; the class token is dropped. Only the vision tower up to the last tap is
    built: no text tower, no ``ln_post``, no projection. Images may have any size in whole patches:
    the position embedding is resized in the forward pass.

    With ``value_path`` and ``dense`` it becomes MaskCLIP (Zhou et al., arXiv 2112.01071): the maps
    stay local, and the last one lies in the space of the text embeddings with length 1 at each
    place, so that its product with a text embedding is their cosine.

    Args:
        arch: Name of an open_clip model whose vision tower is a plain ViT ('ViT-L-14', 'ViT-B-16',
            'ViT-L-14-quickgelu', ...; 'ViT-L/14' also works); or a dict with **width**, **layers**,
            **heads**, **patch_size** and **image_size**, and optionally **mlp_ratio** (default 4),
            **quick_gelu** (default False) and **embed_dim**, which ``dense`` needs.
        out_indices: Blocks whose maps are returned (taps), 0-based, ascending; negative counts from
            the end. None takes the last.
        quick_gelu: Whether the activation is x * sigmoid(1.702 x), as in OpenAI's training, instead
            of GELU. None follows ``arch`` (names that end in -quickgelu, or the dict) and refuses
            weights known to need the other activation.
        value_path: Whether to return, instead of a block's output, what the block computes if no
            token attends to another: x + out_proj(v), followed by the feed-forward layer. The
            blocks themselves run as usual.
        dense: Whether to pass the last map through ``ln_post`` and the projection, which is frozen,
            to the text embeddings' space, and to normalise it to length 1 over the channels.
        norm_eps: Epsilon of all LayerNorms. None takes the arch's own, mostly OpenAI's 1e-5.
        frozen: Whether to exclude the whole backbone from training.
        trainable: Parts of the names of the parameters to train, such as 'attn'; the others are
            frozen. None trains all.
        with_cp: Whether to recompute blocks in the backward pass to save memory.
        checkpoint: Local weight file, with the names of open_clip and OpenAI (whole or vision tower
            alone), Hugging Face, timm or mmpretrain, or a checkpoint that contains this backbone;
            loaded by ``init_weights``. None initialises at random.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``, another way to give the
            checkpoint.
        in_channels: Channels of the images. For more than three, a checkpoint's first layer is
            widened, see :func:`~mmseg_semi_rs.models.weights.widened`.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Examples:
        >>> tiny = dict(width=16, layers=2, heads=2, patch_size=8, image_size=32)
        >>> [tuple(level.shape) for level in CLIPVision(arch=tiny)(torch.rand(1, 3, 16, 24))]
        [(1, 16, 2, 3)]
    """

    family = 'CLIP'
    block_prefix = 'transformer.resblocks.'
    position_name = 'positional_embedding'

    def __init__(
        self,
        arch: str | _Arch = 'ViT-L-14-quickgelu',
        out_indices: Sequence[int] | int | None = None,
        quick_gelu: bool | None = None,
        value_path: bool = False,
        dense: bool = False,
        norm_eps: float | None = None,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        with_cp: bool = False,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower

        BaseModule.__init__(self)
        name = arch.replace('/', '-') if isinstance(arch, str) else ''
        vision, activation = _named(name) if isinstance(arch, str) else _custom(arch)
        self.label = f'CLIPVision {arch!r}'
        self.origin = clip_origin(name)
        self.depth = vision['layers']
        self.quick_gelu = bool(activation) if quick_gelu is None else quick_gelu
        self._activation_given = quick_gelu is not None
        self._activation_named = activation is not None
        self.out_indices = resolve_taps(out_indices, [-1], self.depth, self.label)
        self.value_path, self.dense = value_path, dense
        embed_dim = vision.pop('embed_dim', None)
        if dense and embed_dim is None:
            raise ValueError(f'{self.label} with dense=True needs embed_dim in arch: give it.')
        if norm_eps is not None:
            vision['norm_kwargs'] = {**(vision.get('norm_kwargs') or {}), 'eps': norm_eps}
        tower = _build_vision_tower(
            embed_dim=embed_dim if dense else 1,
            vision_cfg=CLIPVisionCfg(**{**vision, 'layers': self.out_indices[-1] + 1}),
            quick_gelu=self.quick_gelu,
        )
        self.embed_dims = vision['width']
        self.patch_size = vision['patch_size']
        self.grid_size: tuple[int, int] = tuple(tower.grid_size)
        self.conv1 = tower.conv1
        if in_channels != 3:
            sides = dict(kernel_size=tower.conv1.kernel_size, stride=tower.conv1.stride)
            self.conv1 = nn.Conv2d(in_channels, self.embed_dims, bias=False, **sides)
        self.class_embedding = tower.class_embedding
        self.positional_embedding = tower.positional_embedding
        self.ln_pre = tower.ln_pre
        self.transformer = tower.transformer
        if dense:
            self.ln_post = tower.ln_post
            self.proj = tower.proj.requires_grad_(False)
        self._fixed_positions = not tower.positional_embedding.requires_grad
        for block in tower.transformer.resblocks:
            if value_path and not isinstance(block.attn, nn.MultiheadAttention):
                raise ValueError(
                    f'{self.label} has another attention than plain CLIP ({type(block.attn)}), '
                    'which has no value path here: set value_path=False.'
                )
            # open_clip before 2.25 runs its blocks with the sequence first.
            block.attn.batch_first = True
            if self.quick_gelu:
                block.mlp.gelu = LeanQuickGELU()
        self._settle(frozen, trainable, with_cp, checkpoint, init_cfg)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, up to the last tap."""
        return self.transformer.resblocks

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output; the dense one has those of the text embeddings."""
        channels = super().out_channels
        return (*channels[:-1], self.proj.shape[1]) if self.dense else channels

    def keep_tap(self, position: int) -> None:
        """Return only one of the taps, and drop the blocks after it.

        Args:
            position: Index into ``out_indices``, negative from the end; with ``dense`` only the
                last.

        Raises:
            ValueError: If there is no such tap, or if it is not the dense one.
        """
        if self.dense and position not in (-1, len(self.out_indices) - 1):
            raise ValueError(
                f'{self.label} embeds its last map (dense=True), which cannot be dropped for that '
                f'at index {position}: keep index -1, or set dense=False.'
            )
        super().keep_tap(position)

    def keep_first_taps(self, count: int) -> None:
        """Return only the first taps, unless the last one is dense.

        Args:
            count: Number of taps to keep, at least 1.
        """
        if not self.dense:
            super().keep_first_taps(count)

    def _init_random(self) -> None:
        super()._init_random()
        if self.dense:
            nn.init.normal_(self.proj, std=self.embed_dims**-0.5)
        nn.init.trunc_normal_(self.class_embedding, std=0.02)
        if not self._fixed_positions:
            nn.init.trunc_normal_(self.positional_embedding, std=0.02)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding for an image of ``grid`` patches, see :func:`resize_position`.

        Args:
            grid: Numbers of rows and columns of patches, h and w.

        Returns:
            Shape (1 + h * w, C).
        """
        return resize_position(self.positional_embedding, self.grid_size, grid)

    def fit_position(self, embedding: Tensor) -> Tensor:
        """Resize a stored position embedding to this model's own grid.

        Args:
            embedding: Shape (1 + n * n, C).

        Returns:
            Shape (1 + h * w, C).
        """
        side = round((embedding.shape[0] - 1) ** 0.5)
        return resize_position(embedding, (side, side), self.grid_size)

    def check_weights(self, file: WeightFile, format_name: str) -> None:
        """Refuse weights that were trained with the other activation.

        Args:
            file: The weight file.
            format_name: The project whose key names it has.

        Raises:
            ValueError: If the file needs the other activation, or if neither the file nor the
                arguments tell with which one it was trained.
        """
        if self._activation_given:
            return
        wanted = wants_quick_gelu(file)
        if wanted is None:
            if self._activation_named or format_name not in ('Hugging Face', 'timm', 'mmpretrain'):
                return
            raise ValueError(
                f'The weight file {file.path} (CLIP, {format_name} names) does not tell its '
                f'activation, nor does {self.label}: set quick_gelu=True if it stems from OpenAI, '
                'else quick_gelu=False.'
            )
        if wanted != self.quick_gelu:
            trained, built = ('QuickGELU', 'GELU') if wanted else ('GELU', 'QuickGELU')
            raise ValueError(
                f'The weight file {file.path} was trained with {trained}, while {self.label} is '
                f'built with {built}: set quick_gelu={wanted}.'
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract patch maps.

        Args:
            images: Shape (B, N, H, W), normalised with CLIP's mean and std; H and W are multiples
                of ``patch_size``.

        Returns:
            For each of ``out_indices`` shape (B, C, H / patch, W / patch), with C as in
            ``out_channels``.

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        grid = self.grid(images)
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(images.shape[0], 1, -1), patches], dim=1)
        tokens = self.ln_pre(tokens + self.position_embedding(grid))
        run = self._run_value_paths if self.value_path else self._run_blocks
        maps = run(tokens, lambda found: to_map(found[:, 1:], grid))
        return (*maps[:-1], self._embed(maps[-1])) if self.dense else maps

    def _run_value_paths(
        self, tokens: Tensor, read: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Run the blocks, and ``read`` the value path of each tap; the last runs nothing else."""
        maps = []
        for index, block in enumerate(self.blocks[:-1]):
            if index in self.out_indices:
                tokens, values = self._run(run_both_paths, block, tokens)
                maps.append(read(values))
            else:
                tokens = self._run(block, tokens)
        maps.append(read(self._run(run_value_path, self.blocks[-1], tokens)))
        return tuple(maps)

    def _embed(self, level: Tensor) -> Tensor:
        """Project a map into the space of the text embeddings, and normalise it in fp32."""
        embedding = self.ln_post(level.permute(0, 2, 3, 1)) @ self.proj
        return F.normalize(embedding.float(), dim=-1).permute(0, 3, 1, 2)


def _named(name: str) -> tuple[_Arch, bool | None]:
    """Look up a vision tower in open_clip; the activation is None if the name leaves it open."""
    import open_clip
    from open_clip.model import CLIPVisionCfg

    config = open_clip.get_model_config(name)
    vision = dict(config['vision_cfg']) if config else {}
    if not isinstance(vision.get('layers'), int) or 'timm_model_name' in vision:
        known = [other for other in open_clip.list_models() if other in _PLAIN_EXAMPLES]
        raise ValueError(
            f'CLIPVision has no arch {name!r}: give the name of an open_clip model whose vision '
            f'tower is a plain ViT, such as {", ".join(known)}, or a dict with '
            f'{", ".join(sorted(_ARCH_KEYS))}.'
        )
    # The layers after the blocks are not built; patches are never dropped.
    vision.update(attentional_pool=False, patch_dropout=0.0)
    vision = {field.name: vision.get(field.name, field.default) for field in fields(CLIPVisionCfg)}
    vision['embed_dim'] = config['embed_dim']
    return vision, True if config.get('quick_gelu') else None


def _custom(arch: _Arch) -> tuple[_Arch, bool | None]:
    """Convert a dict to open_clip's settings; the activation is None if the dict leaves it open."""
    arch = read_arch('CLIPVision', arch, {}, _ARCH_KEYS, _ARCH_OPTIONS)
    width, heads, side, patch = (
        arch[key] for key in ('width', 'heads', 'image_size', 'patch_size')
    )
    if width % heads or side % patch:
        raise ValueError(
            f'CLIPVision got arch={arch}: give heads that divide width, and an image_size that is '
            'a multiple of patch_size.'
        )
    vision = dict(
        width=width,
        layers=arch['layers'],
        head_width=width // heads,
        patch_size=patch,
        image_size=side,
        mlp_ratio=arch.get('mlp_ratio', 4.0),
        embed_dim=arch.get('embed_dim'),
    )
    return vision, arch.get('quick_gelu')


def clip_origin(name: str) -> str:
    """Describe the source and the licence of an architecture's weights."""
    base = name.removesuffix('-quickgelu')
    if base in _OPENAI_FILES:
        return (
            f'it is published as {_OPENAI_FILES[base]} by openai/CLIP (MIT), and by others for '
            'open_clip (licence on each model card)'
        )
    return 'CLIP files are published by openai/CLIP (MIT) and for open_clip (see each model card)'


def wants_quick_gelu(file: WeightFile) -> bool | None:
    """Whether a file was trained with QuickGELU, by its keys or its config; None if unknown."""
    if 'input_resolution' in file.tensors:
        return True  # the state dict of OpenAI's own archive
    clip = read_neighbour(file.path, 'open_clip_config.json').get('model_cfg')
    if isinstance(clip, dict) and file.path.name.startswith('open_clip'):
        return bool(clip.get('quick_gelu', False))
    config = read_neighbour(file.path, 'config.json')
    if str(config.get('model_type', '')).startswith('clip'):
        # Hugging Face leaves defaults out, and quick_gelu is the default there.
        vision = config.get('vision_config', config)
        return bool(vision.get('hidden_act', 'quick_gelu') == 'quick_gelu')
    if 'architecture' in config:  # timm
        return 'quickgelu' in str(config['architecture'])
    return None
