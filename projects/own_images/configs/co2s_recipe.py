# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S with the recipe's gate and photometry."""

_base_ = './co2s.py'

strong = [dict(type='Photometry', strength='mild'), _base_.pack]
unlabelled_pipeline = [
    *_base_.unlabelled_pipeline[:-1],
    dict(
        type='MultiBranch',
        branch_field=_base_.branches,
        weak=[_base_.pack],
        strong_1=strong,
        strong_2=strong,
    ),
]
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=unlabelled_pipeline)))
model = dict(semi_train_cfg=dict(gate=dict(type='ClassQuantileGate')))
