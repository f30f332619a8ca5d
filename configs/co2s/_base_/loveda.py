# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# CLIP and DINOv3 on LoveDA; a leaf adds the lists and the length.
_base_ = [
    '../../_base_/datasets/co2s_loveda.py',
    '../../_base_/models/co2s_clip_dinov3-b.py',
    '../../_base_/schedules/co2s_adamw_poly.py',
    '../../_base_/default_runtime.py',
]
model = dict(
    students=dict(
        a=dict(decode_head=dict(num_classes=7, class_embedding=dict(concepts='loveda'))),
        b=dict(decode_head=dict(num_classes=7)),
    ),
)
