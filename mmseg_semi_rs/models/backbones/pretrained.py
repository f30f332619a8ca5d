# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of the backbones with public weights."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..weights import Translation, WeightFile, load_pretrained
from ..weights.widening import check_widening


class PretrainedBackbone(BaseModule):
    """A backbone that takes all of its tensors from a public weight file, or none.

    Subclasses build the modules and call :meth:`_take_options` at the end of ``__init__``. Blocks
    after the last tap (returned block) do not exist, so every parameter gets a gradient and no
    computation is wasted.

    Attributes:
        family: Family of its weights in :data:`~mmseg_semi_rs.models.weights.FORMATS`.
        block_prefix: Name of the list of blocks in the state dict, with the final dot.
        position_name: Name of the position embedding in the state dict; empty if none is stored.
        name_aliases: See :class:`~mmseg_semi_rs.models.weights.Loadable`.
        label: Name of this model in messages.
        origin: File, project and licence of its public weights.
        depth: Blocks of the whole architecture, including those after the last tap.
        out_indices: Blocks whose output is returned, 0-based, ascending.
        frozen: Whether the whole backbone is excluded from training.
        trainable: What is trained, see :meth:`_take_options`; None for all.
        checkpoint: The weight file, which sets every tensor; None initialises at random.
        widening: How weights for RGB are adapted to more channels, see
            :func:`~mmseg_semi_rs.models.weights.widened`.
    """

    family: str
    block_prefix: str
    position_name: str = ''
    name_aliases: Mapping[str, str] = {}
    label: str
    origin: str
    depth: int
    out_indices: tuple[int, ...]
    frozen: bool
    trainable: tuple[str, ...] | None
    checkpoint: str | None
    widening: Mapping[str, Any]

    def _take_options(
        self,
        frozen: bool,
        trainable: Sequence[str] | None,
        checkpoint: str | None,
        init_cfg: dict[str, Any] | None,
    ) -> None:
        """Store the arguments that all subclasses share, after the modules were built.

        Args:
            frozen: Whether to exclude the whole backbone from training.
            trainable: Parts of the names of the parameters to train; all others get no gradient.
                None trains all. Parameters that are always fixed stay so.
            checkpoint: Local weight file.
            init_cfg: Another way to give the checkpoint, with ``bands`` and ``widen`` of
                :func:`~mmseg_semi_rs.models.weights.widened`.

        Raises:
            ValueError: If ``trainable`` matches nothing or contradicts ``frozen``, if both ways of
                giving a checkpoint are used, or if the options of widening are invalid.
        """
        self.frozen = frozen
        self.trainable = None
        if trainable is not None:
            self.trainable = (trainable,) if isinstance(trainable, str) else tuple(trainable)
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
        self.widening = {
            key: value for key, value in (init_cfg or {}).items() if key in ('bands', 'widen')
        }
        check_widening(**{'bands': (0, 1, 2), 'widen': 'mean', **self.widening})
        if frozen:
            self.requires_grad_(False)
        if self.trainable is not None:
            self._train_only(self.trainable)

    def _train_only(self, patterns: tuple[str, ...]) -> None:
        """Freeze all parameters whose names contain none of the patterns."""
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

    def keep_tap(self, position: int) -> None:
        """Return only one of the taps, and drop the blocks after it.

        Args:
            position: Index into ``out_indices``, negative from the end.

        Raises:
            ValueError: If there is no such tap.
        """
        if not -len(self.out_indices) <= position < len(self.out_indices):
            raise ValueError(
                f'{self.label} hands out {len(self.out_indices)} maps (out_indices '
                f'{list(self.out_indices)}), which have no index {position}.'
            )
        self._keep((self.out_indices[position],))

    def keep_first_taps(self, count: int) -> None:
        """Return only the first taps, and drop the blocks after them.

        Args:
            count: Number of taps to keep, at least 1.
        """
        self._keep(self.out_indices[:count])

    @abstractmethod
    def _keep(self, taps: tuple[int, ...]) -> None:
        """Return only these taps, and drop everything after the last of them."""

    @property
    @abstractmethod
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""

    @abstractmethod
    def _init_random(self) -> None:
        """Initialise without a checkpoint."""

    def weight_file(self) -> str | Path | None:
        """Return the file that :attr:`checkpoint` stands for.

        Raises:
            FileNotFoundError: If it stands for a file that is not installed.
        """
        return self.checkpoint

    def fit_position(self, embedding: Tensor) -> Tensor:
        """Resize a stored position embedding to this model's own grid.

        Args:
            embedding: As stored in a file for another image size, class token first.

        Returns:
            As this model stores it.
        """
        return embedding

    def check_weights(self, file: WeightFile, format_name: str) -> None:
        """Refuse weights that fit by shape but were trained with other settings.

        Args:
            file: The weight file.
            format_name: The project whose key names it has.
        """

    def adapt_weights(self, found: Translation, path: Path) -> None:
        """Convert translated tensors to the form that this model stores, without loss.

        Args:
            found: The tensors of a file under this package's names; changed in place.
            path: The file, for messages.
        """

    def init_weights(self) -> None:
        """Load the checkpoint, or initialise at random if there is none.

        mmengine also calls ``init_weights`` of child modules directly. All sub-modules are
        therefore marked as initialised, so that nothing overwrites the loaded weights. Further
        calls do nothing.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If the checkpoint does not fit.
        """
        if self.is_init:
            print_log(
                f'{self.label} is initialised already, nothing is changed.',
                logger='current',
                level=logging.DEBUG,
            )
            return
        file = self.weight_file()
        if file is None:
            self._init_random()
        else:
            load_pretrained(self, file, self.checkpoint_prefix)
        for module in self.modules():
            if isinstance(module, BaseModule):
                module.is_init = True

    def train(self, mode: bool = True) -> PretrainedBackbone:
        """Switch between training and evaluation mode; a frozen backbone stays in evaluation mode.

        Args:
            mode: True for training.

        Returns:
            Itself.
        """
        nn.Module.train(self, mode and not self.frozen)
        return self
