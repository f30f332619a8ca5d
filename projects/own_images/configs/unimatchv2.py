# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""UniMatch V2 as published: two strong views that share out the channels of the features."""

_base_ = ['./base.py', '../../../configs/_base_/models/fixmatch_efficientnet-lite0.py']

branches = ['sup', 'weak', 'strong_1', 'strong_2']
strong = [*_base_.photometry, _base_.pack]
labelled_pipeline = [
    *_base_.labelled_pipeline[:-1],
    dict(type='MultiBranch', branch_field=branches, sup=[_base_.pack]),
]
unlabelled_pipeline = [
    *_base_.unlabelled_pipeline[:-1],
    dict(
        type='MultiBranch',
        branch_field=branches,
        weak=[_base_.pack],
        strong_1=strong,
        strong_2=strong,
    ),
]
train_dataloader = dict(
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    )
)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
