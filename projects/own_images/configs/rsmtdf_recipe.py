# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""RS-MTDF with the recipe's gate and photometry."""

_base_ = './rsmtdf.py'

strong = [dict(type='Photometry', strength='mild'), _base_.pack]
unlabelled_pipeline = [
    *_base_.unlabelled_pipeline[:-1],
    dict(type='MultiBranch', branch_field=_base_.branches, weak=[_base_.pack], strong=strong),
]
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=unlabelled_pipeline)))
model = dict(semi_train_cfg=dict(gate=dict(type='ClassQuantileGate')))
