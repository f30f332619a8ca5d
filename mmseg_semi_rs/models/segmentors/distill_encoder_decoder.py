# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""An ``EncoderDecoder`` that passes its decode head what feature distillation needs."""

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
    """EncoderDecoder that also gives its head the images and features at other image sizes.

    ``extract_feat`` returns :class:`DistillFeatures`, a tuple of the usual levels. If the decode
    head has ``view_sizes`` (:class:`MultiTeacherDistillHead`), the encoder also runs on the images
    resized to each of those sizes: this is RS-MTDF's second pass, with shared weights and with
    gradients, in training and at inference. With any other head this is a plain ``EncoderDecoder``.

    It can be trained by mmengine's Runner on labelled images (with its own ``data_preprocessor``)
    or serve as the student of ``MeanTeacherSegmentor`` (without one).

    Args:
        view_resize: How normalised images are resized for the extra passes. Defaults to
            ``dict(antialias=True, align_corners=False)``; the released code uses the opposite
            values.
        **kwargs: Arguments of ``EncoderDecoder``.

    Raises:
        ValueError: If ``view_resize`` has an unknown key, or the backbone outputs class tokens.
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
        """Encode the images, at their own size and at every size that the decode head asks for.

        Args:
            inputs: Normalised images, shape (B, 3, H, W).

        Returns:
            The levels of backbone and neck, each (B, C_i, h_i, w_i), with ``images`` and ``views``.
        """
        levels = super().extract_feat(inputs)
        view_sizes = getattr(self.decode_head, 'view_sizes', None)
        sizes = view_sizes((inputs.shape[2], inputs.shape[3])) if view_sizes else []
        return DistillFeatures(levels, inputs, {size: self._view(inputs, size) for size in sizes})

    def _view(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Deepest features, (B, C, h, w), of the images resized to ``size`` pixels.

        In training, batch norm layers normalise with the statistics of the resized images but keep
        their running statistics, which belong to the main size.
        """
        resized = F.interpolate(images, size, mode='bilinear', **self.view_resize)
        with keep_running_statistics(self):
            return super().extract_feat(resized)[self.decode_head.deepest_index]
