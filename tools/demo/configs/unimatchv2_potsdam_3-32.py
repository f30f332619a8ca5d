# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# UniMatch V2 on the demo's scenes: FixMatch with two strong views, which share out the channels of
# the encoder's features.
_base_ = './_base_demo.py'

branches = ['sup', 'weak', 'strong_1', 'strong_2']
sup = [dict(type='PackSemiInputs')]
strong = [*_base_.photometry, dict(type='PackSemiInputs')]
labelled = dict(
    pipeline=[
        *_base_.labelled.pipeline[:-1],
        dict(type='MultiBranch', branch_field=branches, sup=sup),
    ]
)
unlabelled = dict(
    pipeline=[
        *_base_.unlabelled.pipeline[:-1],
        dict(type='MultiBranch', branch_field=branches, weak=sup, strong_1=strong, strong_2=strong),
    ]
)
train_dataloader = dict(dataset=dict(labelled=labelled, unlabelled=unlabelled))
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
