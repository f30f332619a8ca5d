# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S with the recipe's gate and photometry."""

_base_ = './co2s.py'

strong_view = [dict(type='Photometry', strength='mild'), _base_.pack]
views = dict(_base_.unlabelled_two_views, strong_1=strong_view, strong_2=strong_view)
train_dataloader = dict(
    dataset=dict(unlabelled=dict(pipeline=[*_base_.load, _base_.geometry, views]))
)
model = dict(semi_train_cfg=dict(gate=dict(type='ClassQuantileGate')))
