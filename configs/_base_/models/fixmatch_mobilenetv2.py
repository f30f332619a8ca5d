# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The same with mmseg's MobileNetV2 at output stride 16, whose weights are a file of yours.
_base_ = './fixmatch_efficientnet-lite0.py'

model = dict(
    student=dict(
        backbone=dict(
            _delete_=True,
            type='MobileNetV2',
            out_indices=(1, 2, 4, 6),
            strides=(1, 2, 2, 2, 1, 1, 1),
            dilations=(1, 1, 1, 1, 1, 2, 2),
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(in_channels=[24, 32, 96, 320], in_index=[0, 1, 2, 3]),
    )
)
