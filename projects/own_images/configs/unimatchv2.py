# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""UniMatch V2 as published: two strong views that share out the channels of the features."""

_base_ = ['./base.py', '../../../configs/_base_/models/fixmatch_efficientnet-lite0.py']

train_dataloader = dict(
    dataset=dict(
        labelled=dict(pipeline=[*_base_.load, _base_.geometry, _base_.labelled_two_views]),
        unlabelled=dict(pipeline=[*_base_.load, _base_.geometry, _base_.unlabelled_two_views]),
    )
)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
