# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Encoders with public weights, for images of any size; they return tuples of NCHW feature maps."""

from .clip_vision import CLIPVision
from .dinov2 import DINOv2
from .dinov3 import DINOv3
from .efficientnet_lite import EfficientNetLite
from .foundation import FoundationBackbone
from .pretrained import PretrainedBackbone
from .unread_stages import drop_unread_stages, unread_tensors

__all__ = [
    'CLIPVision',
    'DINOv2',
    'DINOv3',
    'EfficientNetLite',
    'FoundationBackbone',
    'PretrainedBackbone',
    'drop_unread_stages',
    'unread_tensors',
]
