# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The labelled images alone, with the photometry of the strong views."""

_base_ = './supervised.py'

sup = [*_base_.photometry, _base_.pack]
labelled_pipeline = [
    *_base_.labelled_pipeline[:-1],
    dict(type='MultiBranch', branch_field=_base_.branches, sup=sup),
]
train_dataloader = dict(dataset=dict(labelled=dict(pipeline=labelled_pipeline)))
