# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of the vision transformers of foundation models."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from .pretrained import PretrainedBackbone


class FoundationBackbone(PretrainedBackbone):
    """A plain vision transformer that returns the patch maps of some of its blocks.

    Subclasses build the modules and call :meth:`_settle` at the end of ``__init__``.

    Attributes:
        patch_size: Side of a patch in pixels; image sides must be multiples of it.
        embed_dims: Width of the tokens.
        with_cp: Whether blocks are recomputed in the backward pass.
    """

    patch_size: int
    embed_dims: int
    with_cp: bool

    def _settle(
        self,
        frozen: bool,
        trainable: Sequence[str] | None,
        with_cp: bool,
        checkpoint: str | None,
        init_cfg: dict[str, Any] | None,
    ) -> None:
        """Store the arguments that all subclasses share, see :meth:`_take_options`."""
        self.with_cp = with_cp
        self._take_options(frozen, trainable, checkpoint, init_cfg)

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, up to the last tap."""

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""
        return (self.embed_dims,) * len(self.out_indices)

    def _keep(self, taps: tuple[int, ...]) -> None:
        self.out_indices = taps
        del self.blocks[taps[-1] + 1 :]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Count the patches of an image.

        Args:
            images: Shape (B, 3, H, W).

        Returns:
            H / patch size, W / patch size.

        Raises:
            ValueError: If a side is not a multiple of the patch size.
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
        """Run a block; with ``with_cp`` its activations are recomputed in the backward pass."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return recompute(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _run_blocks(
        self, tokens: Tensor, read: Callable[[Tensor], Tensor], *inputs: Any
    ) -> tuple[Tensor, ...]:
        """Run the blocks on tokens and ``inputs``, and apply ``read`` to the output of each tap."""
        maps = []
        for index, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, *inputs)
            if index in self.out_indices:
                maps.append(read(tokens))
        return tuple(maps)

    def _init_random(self) -> None:
        """Initialise as usual for vision transformers: truncated normal, std 0.02, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
                nn.init.zeros_(module.in_proj_bias)
            elif isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def read_arch(
    kind: str,
    arch: str | Mapping[str, Any],
    released: Mapping[str, Mapping[str, Any]],
    required: Collection[str],
    optional: Collection[str],
) -> dict[str, Any]:
    """Look up an architecture by name, or check the keys of a user-defined one.

    Args:
        kind: Name of the network, for the message.
        arch: Name or settings.
        released: Settings of the known architectures by name.
        required: Keys that settings must have.
        optional: Keys that they may have.

    Raises:
        ValueError: If there is no such name, or a key is missing or unknown.
    """
    keys = f'{", ".join(sorted(required))}, and optionally {", ".join(sorted(optional))}'
    if isinstance(arch, str):
        if arch not in released:
            raise ValueError(
                f'{kind} has no arch {arch!r}: choose one of {", ".join(released)}, or give a dict '
                f'with {keys}.'
            )
        return dict(released[arch])
    wrong = sorted((set(required) - arch.keys()) | (arch.keys() - {*required, *optional}))
    if wrong:
        raise ValueError(
            f'{kind} got arch={dict(arch)}, where {", ".join(wrong)} is missing or unknown: give '
            f'{keys}.'
        )
    return dict(arch)


def last_of_quarters(depth: int) -> tuple[int, ...]:
    """Index of the last block of each quarter of ``depth`` blocks, without duplicates."""
    return tuple(sorted({max(0, round(depth * part / 4) - 1) for part in (1, 2, 3, 4)}))


def resolve_taps(
    out_indices: Sequence[int] | int | None,
    default: Sequence[int],
    depth: int,
    label: str,
    unit: str = 'blocks',
) -> tuple[int, ...]:
    """Convert the user's ``out_indices`` to ascending block indices.

    Args:
        out_indices: 0-based, negative from the end; None takes the default.
        default: Indices that None stands for.
        depth: Number of blocks.
        label: Name of the model, for the message.
        unit: What is counted, for the message.

    Returns:
        Ascending indices in [0, depth).

    Raises:
        ValueError: If an index is out of range, or they are not strictly ascending.
    """
    given = default if out_indices is None else out_indices
    given = [given] if isinstance(given, int) else list(given)
    taps = tuple(index + depth if index < 0 else index for index in given)
    ascending = all(left < right for left, right in itertools.pairwise(taps))
    if not taps or not ascending or taps[0] < 0 or taps[-1] >= depth:
        raise ValueError(
            f'{label} has {depth} {unit}, so that out_indices={given} cannot be read: give indices '
            f'from 0 to {depth - 1} (or negative, from the end) in ascending order.'
        )
    return taps


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Arrange patch tokens as a feature map.

    Args:
        tokens: Shape (B, h * w, C).
        grid: h, w.

    Returns:
        Shape (B, C, h, w), a view with channels-last strides.
    """
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)
