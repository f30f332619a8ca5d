# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A decode head around another decode head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


class DecodeHeadWrapper(BaseModule):
    """Answers all that a segmentor asks of a decode head by the head it wraps.

    Args:
        decode_head: Config of any registered decode head.
        deepest_index: Which entry of the encoder's outputs counts as the deepest input of the head.
            None takes the last that it reads.
        init_cfg: Initialisation of this module.

    Attributes:
        deepest_index: See above.
        deepest_channels: Its width.

    Raises:
        ValueError: ``deepest_index`` is no input of the head, or the head does not tell its widths.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        deepest_index: int | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.decode_head = MODELS.build(decode_head)
        self.deepest_index, self.deepest_channels = _deepest_input(
            decode_head, self.decode_head, deepest_index
        )

    @property
    def num_classes(self) -> int:
        """Number of classes of the wrapped head."""
        return self.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """Channels of the logits of the wrapped head."""
        return self.decode_head.out_channels

    @property
    def align_corners(self) -> bool:
        """How the wrapped head's logits are resized."""
        return self.decode_head.align_corners

    @property
    def threshold(self) -> float | None:
        """Threshold of a binary wrapped head."""
        return self.decode_head.threshold

    @property
    def ignore_index(self) -> int:
        """Label that the wrapped head's loss leaves out."""
        return self.decode_head.ignore_index

    @property
    def in_index(self) -> int | Sequence[int]:
        """Encoder outputs that the wrapped head reads."""
        return self.decode_head.in_index

    @property
    def in_channels(self) -> int | Sequence[int]:
        """Widths that the wrapped head expects."""
        return self.decode_head.in_channels

    @property
    def channels(self) -> int:
        """Width of the wrapped head before its classifier."""
        return self.decode_head.channels

    @property
    def loss_decode(self) -> nn.Module:
        """Segmentation loss or losses of the wrapped head."""
        return self.decode_head.loss_decode

    @property
    def sampler(self) -> Any:
        """Pixel sampler of the wrapped head."""
        return self.decode_head.sampler

    @property
    def conv_seg(self) -> nn.Module:
        """Classifier of the wrapped head."""
        return self.decode_head.conv_seg

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Segmentation loss of logits, by the wrapped head."""
        return self.decode_head.loss_by_feat(*args, **kwargs)

    def predict_by_feat(self, *args: Any, **kwargs: Any) -> Tensor:
        """Resize logits to the image, by the wrapped head."""
        return self.decode_head.predict_by_feat(*args, **kwargs)


def _deepest_input(
    cfg: Mapping[str, Any], head: nn.Module, deepest_index: int | None
) -> tuple[int, int]:
    """Find which encoder output is the deepest that a head reads, and its width."""
    # A head that concatenates its inputs keeps only the sum of their widths; its config has them.
    widths = cfg.get('in_channels') or getattr(head, 'in_channels', None)
    if widths is None:
        raise ValueError(
            f'{type(head).__name__} does not tell the width of its inputs: give in_channels in its '
            'config, which MultiTeacherDistillHead needs to translate features.'
        )
    if isinstance(widths, int):
        widths = [widths]
        indices = [getattr(head, 'in_index', -1)]
    else:
        indices = list(getattr(head, 'in_index', range(len(widths))))
    position = -1 if deepest_index is None else None
    if deepest_index in indices:
        position = indices.index(deepest_index)
    if position is None or len(indices) != len(widths):
        raise ValueError(
            f'deepest_index must be one of the inputs {indices} that {type(head).__name__} reads '
            f'(widths {list(widths)}), got {deepest_index}.'
        )
    return indices[position], widths[position]
