# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S: two students, pretrained in different ways, that teach each other."""

_base_ = './base.py'

branches = ['sup', 'weak', 'strong_1', 'strong_2']
labelled_pipeline = [
    *_base_.labelled_pipeline[:-1],
    dict(type='MultiBranch', branch_field=branches, sup=[dict(type='PackSemiInputs')]),
]
strong = [*_base_.photometry, dict(type='PackSemiInputs')]
unlabelled_pipeline = [
    *_base_.unlabelled_pipeline[:-1],
    dict(
        type='MultiBranch',
        branch_field=branches,
        weak=[dict(type='PackSemiInputs')],
        strong_1=strong,
        strong_2=strong,
    ),
]
train_dataloader = dict(
    # 4 labelled + 2 unlabelled, of which there are two strong views
    batch_size=6,
    sampler=dict(batch_size=6, source_ratio=[2, 1]),
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    ),
)
model = dict(
    _delete_=True,
    type='DualStudentSegmentor',
    data_preprocessor=_base_.model.data_preprocessor,
    # Same network; compare.py loads weights of another training into each.
    students=dict(a=_base_.model.student, b=_base_.model.student),
)
custom_hooks = [
    dict(type='PseudoLabelStatsHook', interval=50),
    dict(type='PseudoLabelGuardHook'),
]
