# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the vision transformers of foundation models have in common here."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ..weights import Translation, WeightFile, load_pretrained


class FoundationBackbone(BaseModule):
    """A plain vision transformer that hands out patch maps of some of its blocks.

    Subclasses build the modules and call :meth:`_settle` at the end of ``__init__``. Blocks behind
    the last tap do not exist, so no parameter is without gradient and no work is in vain.

    Attributes:
        family (str): Whose weights it loads: ``'DINOv2'``, ``'DINOv3'`` or ``'CLIP'``.
        block_prefix (str): Name of the list of blocks in the state dict, with the final dot.
        position_name (str): Name of the position embedding in the state dict, empty where none is
            stored.
        name_aliases (dict[str, str]): See :class:`~mmseg_semi_rs.models.weights.Loadable`.
        label (str): How messages call this very model.
        origin (str): File, project and licence of its public weights.
        depth (int): Blocks of the whole architecture, including those behind the last tap.
        out_indices (tuple[int, ...]): Blocks whose outputs are handed out, 0-based, ascending.
        patch_size (int): Side of a patch in pixels; image sides must be multiples of it.
        embed_dims (int): Width.
        frozen (bool): Whether the whole backbone is out of training.
        trainable (tuple[str, ...] | None): What trains, see :meth:`_settle`; None is all.
        checkpoint (str | None): The weight file, which sets every tensor; None starts at random.
    """

    family: str
    block_prefix: str
    position_name: str = ''
    name_aliases: Mapping[str, str] = {}
    label: str
    origin: str
    depth: int
    out_indices: tuple[int, ...]
    patch_size: int
    embed_dims: int
    frozen: bool
    trainable: tuple[str, ...] | None
    with_cp: bool
    checkpoint: str | None

    def _settle(
        self,
        frozen: bool,
        trainable: Sequence[str] | None,
        with_cp: bool,
        checkpoint: str | None,
        init_cfg: dict[str, Any] | None,
    ) -> None:
        """Take the arguments that all subclasses share; the modules exist by now.

        Args:
            frozen (bool): Take the whole backbone out of training.
            trainable (Sequence[str] | None): Parts of the names of the parameters that train; all
                others get no gradient. None trains all. What is fixed anyway stays so.
            with_cp (bool): Recompute blocks in the backward pass.
            checkpoint (str | None): Local weight file.
            init_cfg (dict | None): Another way to give the checkpoint.

        Raises:
            ValueError: ``trainable`` names nothing, or contradicts ``frozen``; both ways of giving
                a checkpoint are used.
        """
        self.frozen = frozen
        self.trainable = None
        if trainable is not None:
            self.trainable = (trainable,) if isinstance(trainable, str) else tuple(trainable)
        self.with_cp = with_cp
        self.checkpoint, self.checkpoint_prefix = checkpoint, None
        if init_cfg is not None:
            if init_cfg.get('type') != 'Pretrained' or checkpoint is not None:
                raise ValueError(
                    f'{self.label} takes its weights from checkpoint=..., or from '
                    "init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...), but got "
                    f'init_cfg={init_cfg} with checkpoint={checkpoint!r}: give one of them.'
                )
            self.checkpoint = init_cfg['checkpoint']
            self.checkpoint_prefix = init_cfg.get('prefix')
        if frozen:
            self.requires_grad_(False)
        if self.trainable is not None:
            self._train_only(self.trainable)

    def _train_only(self, patterns: tuple[str, ...]) -> None:
        """Take all parameters out of training whose names contain none of the patterns."""
        free = {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
        if self.frozen or not patterns:
            raise ValueError(
                f'{self.label} got trainable={list(patterns)} with frozen={self.frozen}: give '
                'frozen=True alone to train nothing, or trainable alone with at least one part of '
                "a parameter's name."
            )
        idle = [part for part in patterns if not any(part in name for name in free)]
        if idle:
            raise ValueError(
                f'{self.label} has no parameter to train whose name contains {idle[0]!r} '
                f'(trainable={list(patterns)}): its names are like '
                f'{", ".join(list(free)[:2] + list(free)[len(free) // 2 :][:4])}.'
            )
        for name, weight in free.items():
            weight.requires_grad_(any(part in name for part in patterns))

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, up to the last tap."""

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""
        return (self.embed_dims,) * len(self.out_indices)

    def keep_tap(self, position: int) -> None:
        """Hand out one of the taps only, and drop the blocks behind it.

        Args:
            position (int): Index into ``out_indices``, negative from the end.

        Raises:
            ValueError: There is no such tap.
        """
        if not -len(self.out_indices) <= position < len(self.out_indices):
            raise ValueError(
                f'{self.label} hands out {len(self.out_indices)} maps (blocks '
                f'{list(self.out_indices)}), which have no index {position}.'
            )
        self.out_indices = (self.out_indices[position],)
        del self.blocks[self.out_indices[0] + 1 :]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Count the patches of an image.

        Args:
            images (Tensor): Shape (B, 3, H, W).

        Returns:
            tuple[int, int]: H / patch size, W / patch size.

        Raises:
            ValueError: A side is no multiple of the patch size.
        """
        height, width = images.shape[-2:]
        patch = self.patch_size
        if height % patch or width % patch or not height or not width:
            fit = [max(patch, round(side / patch) * patch) for side in (height, width)]
            raise ValueError(
                f'{self.label} got images of {height} x {width} pixels (height x width), whose '
                f'sides must be multiples of its patch size {patch}: crop, pad or resize to '
                f'{fit[0]} x {fit[1]}, for example (crop_size, data_preprocessor.size, and '
                'test_cfg.crop_size with test_cfg.stride in slide mode).'
            )
        return height // patch, width // patch

    def _run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Run a part; ``with_cp`` has its inner results computed anew in the backward pass."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return recompute(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _run_blocks(
        self, tokens: Tensor, read: Callable[[Tensor], Tensor], *inputs: Any
    ) -> tuple[Tensor, ...]:
        """Run the blocks on tokens and ``inputs``, and ``read`` what each tap hands out."""
        maps = []
        for index, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, *inputs)
            if index in self.out_indices:
                maps.append(read(tokens))
        return tuple(maps)

    def fit_position(self, embedding: Tensor) -> Tensor:
        """Resize a stored position embedding to this model's own grid.

        Args:
            embedding (Tensor): As stored in a file of another image size, with the token of the
                class in front.

        Returns:
            Tensor: As this model stores it.
        """
        return embedding

    def check_weights(self, file: WeightFile, format_name: str) -> None:
        """Refuse weights that fit by shape but not by what they were trained with.

        Args:
            file (WeightFile): The file.
            format_name (str): Whose names it has.
        """

    def adapt_weights(self, found: Translation, path: Path) -> None:
        """Bring translated tensors into the form that this very model stores, without loss.

        Args:
            found (Translation): The tensors of a file under our names; changed in place.
            path (Path): The file, for messages.
        """

    def _init_random(self) -> None:
        """Initialise as vision transformers are: truncated normal, std 0.02, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
                nn.init.zeros_(module.in_proj_bias)
            elif isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Load the checkpoint, or initialise at random where there is none.

        mmengine calls ``init_weights`` of children behind their parents' back; so all sub-modules
        are marked as initialised, and nothing runs over loaded weights. Called again it does
        nothing.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: The checkpoint does not fit.
        """
        if self.is_init:
            print_log(
                f'{self.label} is initialised already, nothing is changed.',
                logger='current',
                level=logging.DEBUG,
            )
            return
        if self.checkpoint is None:
            self._init_random()
        else:
            load_pretrained(self, self.checkpoint, self.checkpoint_prefix)
        for module in self.modules():
            if isinstance(module, BaseModule):
                module.is_init = True

    def train(self, mode: bool = True) -> FoundationBackbone:
        """Switch between training and evaluation; a frozen backbone stays in evaluation.

        Args:
            mode (bool): Training or not. Defaults to True.

        Returns:
            FoundationBackbone: Itself (mmpretrain's own returns None).
        """
        nn.Module.train(self, mode and not self.frozen)
        return self


def resolve_taps(
    out_indices: Sequence[int] | int | None, default: Sequence[int], depth: int, label: str
) -> tuple[int, ...]:
    """Turn what a user gives into ascending block indices.

    Args:
        out_indices (Sequence[int] | int | None): 0-based, negative from the end; None for default.
        default (Sequence[int]): What None stands for.
        depth (int): Number of blocks.
        label (str): For the message.

    Returns:
        tuple[int, ...]: Ascending, in [0, depth).

    Raises:
        ValueError: An index is out of range, or they are not strictly ascending.
    """
    given = default if out_indices is None else out_indices
    given = [given] if isinstance(given, int) else list(given)
    taps = tuple(index + depth if index < 0 else index for index in given)
    ascending = all(left < right for left, right in itertools.pairwise(taps))
    if not taps or not ascending or taps[0] < 0 or taps[-1] >= depth:
        raise ValueError(
            f'{label} has {depth} blocks, so that out_indices={given} cannot be read: give indices '
            f'from 0 to {depth - 1} (or negative, from the end) in ascending order.'
        )
    return taps


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay patch tokens out as an image.

    Args:
        tokens (Tensor): Shape (B, h * w, C).
        grid (tuple[int, int]): h, w.

    Returns:
        Tensor: Shape (B, C, h, w), a view (of channels-last strides).
    """
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)
