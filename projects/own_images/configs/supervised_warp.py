# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The labelled images alone, the boundaries of half of the masks moved a little."""

_base_ = './supervised.py'

warped = dict(_base_.labelled_views, sup=[dict(type='LabelWarp', prob=0.5), _base_.pack])
train_dataloader = dict(
    dataset=dict(labelled=dict(pipeline=[*_base_.load, _base_.geometry, warped]))
)
