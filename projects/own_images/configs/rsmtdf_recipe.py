# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""RS-MTDF with the recipe's gate and photometry."""

_base_ = './rsmtdf.py'

strong_view = [dict(type='Photometry', strength='mild'), _base_.pack]
views = dict(_base_.unlabelled_views, strong=strong_view)
train_dataloader = dict(
    dataset=dict(unlabelled=dict(pipeline=[*_base_.load, _base_.geometry, views]))
)
model = dict(semi_train_cfg=dict(gate=dict(type='ClassQuantileGate')))
