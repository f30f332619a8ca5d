# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The labelled images alone, with the photometry of the strong views."""

_base_ = './supervised.py'

views = dict(_base_.labelled_views, sup=_base_.strong_view)
train_dataloader = dict(
    dataset=dict(labelled=dict(pipeline=[*_base_.load, _base_.geometry, views]))
)
