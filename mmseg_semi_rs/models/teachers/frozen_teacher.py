# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A frozen network whose features the student learns to predict (RS-MTDF, arXiv 2506.08772)."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils.step_parts import step_part
from ..backbones import PretrainedBackbone, drop_unread_stages
from ..weights import check_pretrained

_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
# Layers with weights in the teacher's dtype; norms, embeddings and scales stay float32.
_MATMUL_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)

_Stats = tuple[tuple[float, ...], tuple[float, ...]]


@MODELS.register_module()
class FrozenTeacher:
    """Any registered backbone as a frozen teacher that turns images into one feature map.

    It is deliberately **not** an ``nn.Module``. An owner may keep it as an attribute, yet it is
    absent from the owner's parameters, state dict, EMA copy, optimizer and DDP buckets, and cannot
    be put into training mode. The owner passes on its moves with :meth:`_apply`; besides, a teacher
    follows the device of its images. A deep copy returns the teacher itself, so that the EMA copy
    of an owner shares it.

    Construction builds only the structure, on the meta device, to find ``channels`` and
    :meth:`grid`. Weight files are read by :meth:`build`, at the latest in the first call, so
    inference with the owner never needs them.

    Images arrive as the student's preprocessor normalised them. The teacher undoes that, resizes
    them (keeping the aspect ratio, antialiased), and normalises them as in its own training.

    Args:
        backbone: Config of a registered backbone with its weights: ``checkpoint`` for the backbones
            of this package, ``init_cfg`` for those of mmseg.
        out_index: Which of its outputs is the target. Later layers are not built, or are dropped,
            for backbones known to :func:`~mmseg_semi_rs.models.backbones.drop_unread_stages`.
        input_size: Long side in pixels of the teacher's input; None keeps the student's size. Both
            sides are always rounded to whole patches.
        input_stats: ``mean`` and ``std`` per channel (0-255 scale, in the channel order of the
            images) of the teacher's own training. None takes the pixels as they come.
        dtype: 'float32', 'bfloat16' or 'float16': dtype of the matrix products, regardless of any
            surrounding autocast, and of the weights of linear and convolution layers.
        antialias: Whether to downsample images with antialiasing.
        align_corners: Whether resizing aligns the corner pixels.
        seed: Seed of weights that no file provides, so that they are equal in all processes and
            after a resume.
        bands: For images with more bands than the teacher knows: positions, from 0, of the bands it
            uses, in its own order (red, green, blue). They are brought back to the 0-255 scale,
            clipped to it like 8-bit pixels, and normalised with ``input_stats``. None takes the
            images as they are.

    Attributes:
        channels: Channels of the feature map.
        patch_size: Sides of the teacher's input are multiples of it; 1 for CNNs.
        device: Device of the network, also before it is built.

    Raises:
        ValueError: If an argument is out of its range, or the backbone has no such output.

    Examples:
        >>> tiny = dict(embed_dims=16, num_layers=2, num_heads=2)
        >>> teacher = FrozenTeacher(dict(type='DINOv2', arch=tiny, img_size=56), input_size=28)
        >>> teacher.channels, teacher.input_shape(64, 128), teacher.grid(64, 128)
        (16, (14, 28), (1, 2))
        >>> tuple(teacher(torch.rand(2, 3, 64, 128)).shape)
        (2, 16, 1, 2)
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        out_index: int = -1,
        input_size: int | None = None,
        input_stats: dict[str, Sequence[float]] | None = None,
        dtype: str = 'float32',
        antialias: bool = True,
        align_corners: bool = False,
        seed: int = 0,
        bands: Sequence[int] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(
                f'FrozenTeacher got dtype={dtype!r}: give one of {", ".join(map(repr, _DTYPES))}.'
            )
        if input_size is not None and input_size < 1:
            raise ValueError(
                f'FrozenTeacher got input_size={input_size}: give a number of pixels, or None.'
            )
        if bands is not None and (len(bands) != 3 or min(bands) < 0 or input_stats is None):
            raise ValueError(
                f'FrozenTeacher got bands={list(bands)} with input_stats={input_stats}: give the '
                'positions of red, green and blue in the images, from 0, and the statistics that '
                'it was trained with.'
            )
        self.bands = None if bands is None else tuple(bands)
        self.backbone_cfg = copy.deepcopy(backbone)
        self.out_index = out_index
        self.input_size = input_size
        self.input_stats = None if input_stats is None else _input_stats(input_stats)
        self.dtype = _DTYPES[dtype]
        self.antialias = antialias
        self.align_corners = align_corners
        self.seed = seed
        self.device = torch.device('cpu')
        self._channels_last = False
        self._source: _Stats | None = None
        self._module: nn.Module | None = None
        self._affine: dict[tuple[_Stats, torch.device], tuple[Tensor, Tensor]] = {}
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        self._structure, self._structure_device = self._build_structure()
        self.patch_size = _patch_size(self._structure)
        self.channels = self._probe(self.input_size or 224, self.input_size or 224)[0]

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.backbone_cfg.get("type")}, channels={self.channels}, '
            f'input_size={self.input_size}, dtype={self.dtype}, built={self.is_built})'
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

    @property
    def is_built(self) -> bool:
        """Whether the network with its weights has been created."""
        return self._module is not None

    @property
    def module(self) -> nn.Module:
        """The frozen network.

        Raises:
            RuntimeError: If it is not built yet.
        """
        if self._module is None:
            raise RuntimeError('The FrozenTeacher has no weights yet: call build() first.')
        return self._module

    def _new_module(self, device: str) -> nn.Module:
        """Build the backbone from its config, without weights from a file."""
        with _own_randomness(self.seed), torch.device(device):
            module = MODELS.build(copy.deepcopy(self.backbone_cfg))
        if isinstance(module, PretrainedBackbone):
            module.keep_tap(self.out_index)
        else:
            drop_unread_stages(module, self.out_index)
        return _frozen(module)

    def _build_structure(self) -> tuple[nn.Module, str]:
        """Build the network on the meta device, or on the CPU if it cannot run there."""
        try:
            module = self._new_module('meta')
        except (NotImplementedError, RuntimeError):  # construction reads values of tensors
            module = self._new_module('cpu').to('meta')
        side = 8 * max(8, _patch_size(module))
        try:
            with torch.no_grad(), torch.device('meta'):
                module(torch.zeros(1, 3, side, side))
        except (NotImplementedError, RuntimeError):  # an operator without a meta kernel
            return self._new_module('cpu'), 'cpu'
        return module, 'meta'

    def _probe(self, height: int, width: int) -> tuple[int, int, int]:
        """Find channels and grid for an image of the student by running the structure."""
        device = self._structure_device
        with torch.no_grad(), torch.device(device), torch.autocast('cpu', enabled=False):
            features = self._structure(torch.zeros(1, 3, *self.input_shape(height, width)))
        _, channels, *grid = self._pick(features).shape
        return channels, grid[0], grid[1]

    def _pick(self, features: Any) -> Tensor:
        levels = [features] if isinstance(features, Tensor) else list(features)
        # A PretrainedBackbone was reduced to the one map that is wanted.
        index = 0 if isinstance(self._structure, PretrainedBackbone) else self.out_index
        if not -len(levels) <= index < len(levels):
            raise ValueError(
                f'FrozenTeacher got out_index={index}, but {self.backbone_cfg.get("type")} hands '
                f'out {len(levels)} feature maps: choose one of them, or set its out_indices.'
            )
        level = levels[index]
        if not isinstance(level, Tensor) or level.dim() != 4:
            raise ValueError(
                f'FrozenTeacher needs feature maps (B, C, h, w), but output {index} of '
                f'{self.backbone_cfg.get("type")} is no such tensor: choose another out_index, or '
                'options under which that backbone hands out maps only.'
            )
        return level

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size to which the teacher resizes an image.

        The long side becomes ``input_size`` and the other side follows. Both are rounded to whole
        patches, at least one.

        Args:
            height: Height of the student's image in pixels.
            width: Width of the student's image in pixels.

        Returns:
            Height and width in pixels.
        """
        scale = 1.0 if self.input_size is None else self.input_size / max(height, width)
        patch = self.patch_size
        sides = [max(1, int(side * scale / patch + 0.5)) * patch for side in (height, width)]
        return sides[0], sides[1]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Size of the feature map of an image.

        Args:
            height: Height of the student's image in pixels.
            width: Width of the student's image in pixels.

        Returns:
            Height and width of the feature map.
        """
        shape = self.input_shape(height, width)
        if shape not in self._grids:
            self._grids[shape] = self._probe(height, width)[1:]
        return self._grids[shape]

    def bind_source(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the statistics with which incoming images are normalised.

        Args:
            mean: Per channel, 0-255 scale.
            std: Per channel, 0-255 scale.

        Raises:
            ValueError: If ``bands`` names a channel that is missing, or if, without ``bands``,
                ``input_stats`` is for another number of channels.
        """
        source = _stats('the source statistics', mean, std)
        last = max(self.bands) if self.bands else -1
        alike = self.input_stats is None or len(source[0]) == len(self.input_stats[0])
        if last >= len(source[0]) or (self.bands is None and not alike):
            raise ValueError(
                f'A FrozenTeacher ({self.backbone_cfg.get("type")}) with bands={self.bands} is '
                f'handed images of {len(source[0])} channels: give bands=[...], the positions of '
                'red, green and blue among them, from 0.'
            )
        if self.bands is not None:
            mean, std = ([each[band] for band in self.bands] for each in source)
            source = _stats('the source statistics', mean, std)
        self._source = source

    def build(self, device: torch.device | str | None = None) -> FrozenTeacher:
        """Create the network with its weights, unless this was done before, and move it.

        Args:
            device: Target device; None for that of its owner.

        Returns:
            Itself.

        Raises:
            FileNotFoundError: If its weight file does not exist; the message says where to get it.
            ValueError: If the weight file does not fit.
        """
        if self._module is None:
            if isinstance(self._structure, PretrainedBackbone) and self._structure.checkpoint:
                # Its file sets every tensor, so no random initialisation is needed.
                module = self._new_module('meta').to_empty(device='cpu')
            else:
                module = self._new_module('cpu')
            for init_cfg in _pretrained_cfgs(module):
                check_pretrained(module, init_cfg)
            init_weights = getattr(module, 'init_weights', None)
            if init_weights is not None:
                with _own_randomness(self.seed), _quiet():
                    init_weights()
            for parameter in _matmul_parameters(module):
                parameter.data = parameter.data.to(self.dtype)
            self._module = _frozen(module).to(self.device)
            self._lay_out()
        return self if device is None else self.to(device)

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Move the teacher to a device; dtypes stay.

        Args:
            device: Target device. The meta device is ignored, so that an owner that is inspected
                without weights does not discard the only copy of the teacher's.

        Returns:
            Itself.
        """
        device = torch.device(device)
        if device.type != 'meta' and device != self.device:
            self.device = device
            if self._module is not None:
                self._module.to(device)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTeacher:
        """Follow a move of the owner, which calls this in its own ``_apply``.

        Args:
            fn: The function that ``nn.Module._apply`` runs on every tensor. Only its target device,
                and a channels-last memory format, are adopted; ``owner.half()`` changes nothing.
            recurse: Unused, as in ``nn.Module._apply``.

        Returns:
            Itself.
        """
        moved = fn(torch.empty(2, 2, 2, 2, device=self.device))
        self._channels_last |= moved.is_contiguous(memory_format=torch.channels_last)
        self.to(moved.device)
        self._lay_out()
        return self

    def _lay_out(self) -> None:
        """Convert the weights to the owner's memory format."""
        if self._module is not None and self._channels_last:
            self._module.to(memory_format=torch.channels_last)

    def prepare(self, images: Tensor) -> Tensor:
        """Convert the student's input into the input that the teacher was trained on.

        Args:
            images: Shape (B, 3, H, W), or (B, N, H, W) with ``bands``, normalised with the
                statistics of :meth:`bind_source`.

        Returns:
            Shape (B, 3, *input_shape(H, W)), float32, normalised with ``input_stats``. Values are
            unchanged if size and statistics are the same and there are no ``bands``.

        Raises:
            RuntimeError: If ``input_stats`` is set, but the source statistics are not known.
        """
        images = images.float()
        if self.bands is not None:
            images = self._clipped(images)
        shape = self.input_shape(*images.shape[-2:])
        if shape != tuple(images.shape[-2:]):
            images = F.interpolate(
                images,
                size=shape,
                mode='bilinear',
                align_corners=self.align_corners,
                antialias=self.antialias,
            )
        if self.input_stats is None:
            return images
        if self._source is None:
            raise RuntimeError(
                'The FrozenTeacher has input_stats but does not know how its images were '
                'normalised: call bind_source(mean, std) with the statistics of the '
                'data_preprocessor, or set input_stats=None to take the pixels as they come.'
            )
        if self._source == self.input_stats:
            return images
        # Undo one normalisation and apply the other in one step, which commutes with resizing.
        scale, shift = self._renormalisation(images.device)
        return images * scale + shift

    def _clipped(self, images: Tensor) -> Tensor:
        """Select the teacher's bands and clip them to the 0-255 range before normalisation."""
        if self._source is None:
            return images  # :meth:`prepare` then raises an error
        bands = []
        for band, mean, std in zip(self.bands or (), *self._source, strict=True):
            bands.append(images[:, band : band + 1].clamp(-mean / std, (255 - mean) / std))
        return torch.cat(bands, dim=1)

    def _renormalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        assert self._source is not None and self.input_stats is not None
        key = (self._source, device)
        if key not in self._affine:  # kept on the device: creating it makes the host wait
            (mean, std), (own_mean, own_std) = (
                [torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in stats]
                for stats in (self._source, self.input_stats)
            )
            scale, shift = std / own_std, (mean - own_mean) / own_std
            self._affine[key] = (scale.float().to(device), shift.float().to(device))
        return self._affine[key]

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return torch.autocast(device.type, enabled=False)
        if self.dtype == torch.float16 and device.type == 'cpu' and not cpu_has_half():
            return self._upcast()
        return torch.autocast(device.type, dtype=self.dtype)

    @contextlib.contextmanager
    def _upcast(self) -> Iterator[None]:
        """Compute in float32 with the rounded weights, where products in the dtype are missing."""
        parameters = list(_matmul_parameters(self.module))
        held = [parameter.data for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.data = parameter.data.float()
            with torch.autocast('cpu', enabled=False):
                yield
        finally:
            for parameter, weights in zip(parameters, held, strict=True):
                parameter.data = weights

    @torch.no_grad()
    @step_part('frozen teachers')
    def __call__(self, images: Tensor) -> Tensor:
        """Extract the target features of a batch.

        Args:
            images: Shape (B, 3, H, W), as the student gets them.

        Returns:
            Shape (B, channels, *grid(H, W)), float32, without gradient.

        Raises:
            FileNotFoundError: See :meth:`build`.
            RuntimeError: See :meth:`prepare`.
            ValueError: See :meth:`build`.
        """
        module = self.build(images.device).module
        pixels = self.prepare(images)
        with self._precision(images.device):
            features = module(pixels)
        return self._pick(features).float()


def _stats(what: str, mean: Sequence[float], std: Sequence[float]) -> _Stats:
    stats = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    if len(stats[0]) != len(stats[1]) or not stats[0] or min(stats[1]) <= 0:
        raise ValueError(
            f'{what} of a FrozenTeacher are mean={list(mean)}, std={list(std)}: give one mean and '
            'one positive std per channel, on the 0-255 scale.'
        )
    return stats


def _input_stats(stats: Mapping[str, Sequence[float]]) -> _Stats:
    if set(stats) != {'mean', 'std'}:
        raise ValueError(
            f'FrozenTeacher got input_stats={dict(stats)}: give dict(mean=[...], std=[...]) on the '
            '0-255 scale, or None to take the pixels as they come.'
        )
    return _stats('input_stats', stats['mean'], stats['std'])


def _patch_size(module: nn.Module) -> int:
    """Number of pixels of which a backbone's input sides must be multiples."""
    patch = getattr(module, 'patch_size', 1)
    return max(int(side) for side in (patch if isinstance(patch, Sequence) else (patch,)))


def _matmul_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    for layer in module.modules():
        if isinstance(layer, _MATMUL_LAYERS):
            yield from layer.parameters(recurse=False)


@functools.cache
def cpu_has_half() -> bool:
    """Whether this PyTorch has float16 products and convolutions on the CPU (old ones do not)."""
    pixels = torch.zeros(1, 1, 2, 2)
    try:
        with warnings.catch_warnings(), torch.autocast('cpu', dtype=torch.float16):
            warnings.simplefilter('ignore')
            product = F.linear(pixels, torch.zeros(2, 2, dtype=torch.float16))
            mapped = F.conv2d(pixels, torch.zeros(1, 1, 1, 1, dtype=torch.float16))
    except RuntimeError:
        return False
    return product.dtype == mapped.dtype == torch.float16


def _frozen(module: nn.Module) -> nn.Module:
    module.requires_grad_(False)
    module.eval()
    return module


def _pretrained_cfgs(module: nn.Module) -> list[dict[str, Any]]:
    """Files that mmengine will load into a backbone; ``PretrainedBackbone`` loads its own."""
    init_cfg = getattr(module, 'init_cfg', None)
    if isinstance(module, PretrainedBackbone) or not init_cfg:
        return []
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    return [cfg for cfg in cfgs if cfg.get('type') == 'Pretrained']


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed the random numbers inside the block, and restore the previous state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Stop mmengine from logging every tensor that it initialises."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
