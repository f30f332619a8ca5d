# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A decode head that wraps another decode head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmseg.models.decode_heads import DDRHead, IterativeDecodeHead, PIDHead
from mmseg.registry import MODELS
from torch import nn

_ANSWERED = (
    *('num_classes', 'out_channels', 'align_corners', 'threshold', 'ignore_index', 'in_index'),
    *('in_channels', 'channels', 'loss_decode', 'sampler', 'conv_seg'),
    *('loss_by_feat', 'predict_by_feat'),
)


class DecodeHeadWrapper(BaseModule):
    """Decode head that forwards what a segmentor reads from a head to the head that it wraps.

    Args:
        decode_head: Config of any registered decode head.
        deepest_index: Index of the encoder output that counts as the deepest input of the head.
            None takes the last one that the head reads.
        init_cfg: Initialisation of this module.

    Attributes:
        deepest_index: Index of the deepest input among the encoder outputs.
        deepest_channels: Number of channels of that input.

    Raises:
        ValueError: If the head does not read ``deepest_index``, does not tell the widths of its
            inputs, or reads other features in training than in prediction.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        deepest_index: int | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.decode_head = MODELS.build(decode_head)
        if isinstance(self.decode_head, (DDRHead, PIDHead)):
            raise ValueError(
                f'{type(self.decode_head).__name__} reads other features in training than in '
                f'prediction, between which {type(self).__name__} cannot mediate: choose another '
                'decode_head.'
            )
        self.deepest_index, self.deepest_channels = _deepest_input(
            decode_head, self.decode_head, deepest_index
        )

    def __getattr__(self, name: str) -> Any:
        """Look up the attributes in ``_ANSWERED`` on the wrapped head."""
        return getattr(self.decode_head, name) if name in _ANSWERED else super().__getattr__(name)


def _deepest_input(
    cfg: Mapping[str, Any], head: nn.Module, deepest_index: int | None
) -> tuple[int, int]:
    """Find the index and the width of the deepest encoder output that a head reads."""
    if isinstance(head, IterativeDecodeHead):
        return _deepest_input(cfg['kernel_generate_head'], head.kernel_generate_head, deepest_index)
    # A head that concatenates its inputs stores only the sum of their widths, so ask its config.
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
