# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""EncoderDecoder that hands its decode head what distillation needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor

from ..decode_heads import DistillFeatures, with_image_stats
from ..utils import forget_recomputation, keep_running_statistics, read_cfg


@MODELS.register_module()
class DistillEncoderDecoder(EncoderDecoder):
    """EncoderDecoder whose features carry the images and the encoder's view of other sizes.

    ``extract_feat`` returns :class:`DistillFeatures`, a tuple of the usual levels. A decode head
    that has ``view_sizes``, such as :class:`MultiTeacherDistillHead`, says at which sizes the
    encoder has to look once more: RS-MTDF's second pass, with shared weights and with gradient, in
    training and at inference. With any other head it is a plain ``EncoderDecoder``.

    Trains alone under mmengine's Runner on labelled images (with its own ``data_preprocessor``) or
    as the student of ``MeanTeacherSegmentor`` (without one).

    Args:
        view_resize: How the normalised image is resized for the extra passes:
            ``dict(antialias=True, align_corners=False)``. The release has them the other way
            round.
        **kwargs: Those of ``EncoderDecoder``. ``backbone`` may offer
            ``forward_deepest(images) -> Tensor``, which then runs in the extra passes when there
            is no neck and the head reads the last level.

    Raises:
        ValueError: If ``view_resize`` has an unknown key, or the backbone gives class tokens.
    """

    def __init__(self, view_resize: Mapping[str, bool] | None = None, **kwargs: Any) -> None:
        defaults = {'antialias': True, 'align_corners': False}
        resize = read_cfg(view_resize, defaults, 'view_resize')
        own = kwargs.get('data_preprocessor')
        if isinstance(own, Mapping):
            own = kwargs['data_preprocessor'] = MODELS.build(own)
        if isinstance(own, SegDataPreProcessor):
            kwargs['decode_head'] = with_image_stats(kwargs['decode_head'], own)
        super().__init__(**kwargs)
        if getattr(self.backbone, 'output_cls_token', False):
            raise ValueError(
                'The backbone has output_cls_token=True, so that its levels are no maps that could '
                "be distilled: leave it out, and take type='SizeMatchedDPTHead' instead of DPTHead."
            )
        self.view_resize = resize
        forget_recomputation(self)

    def extract_feat(self, inputs: Tensor) -> DistillFeatures:
        """Encode the images, and once more at every size that the decode head asks for.

        Args:
            inputs: Normalised images, shape (B, 3, H, W).

        Returns:
            The levels of backbone and neck, (B, C_i, h_i, w_i) each, with ``images`` and ``views``.
        """
        levels = super().extract_feat(inputs)
        view_sizes = getattr(self.decode_head, 'view_sizes', None)
        sizes = view_sizes((inputs.shape[2], inputs.shape[3])) if view_sizes else []
        return DistillFeatures(levels, inputs, {size: self._view(inputs, size) for size in sizes})

    def _view(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Deepest features, (B, C, h, w), of the images resized to ``size`` pixels.

        Batch norm layers use the view's own statistics in training but do not remember them: the
        running ones belong to the main size.
        """
        resized = F.interpolate(images, size, mode='bilinear', **self.view_resize)
        deepest = self.decode_head.deepest_index
        cheap = getattr(self.backbone, 'forward_deepest', None)
        with keep_running_statistics(self):
            if cheap is not None and not self.with_neck and deepest == -1:
                return cheap(resized)
            return super().extract_feat(resized)[deepest]
