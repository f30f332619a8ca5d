# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S: two students of other trainings and with other heads, that teach each other."""

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
    students=dict(
        a=_base_.model.student,
        b=dict(
            type='EncoderDecoder',
            backbone=_base_.backbone,
            decode_head=dict(
                type='VLGHead',
                in_channels=[24, 32, 320],
                in_index=[0, 1, 3],
                channels=64,
                text_channels=64,
                num_classes=2,
                dilations=(2, 4, 6),  # of 10 x 10 places
                class_embedding=dict(type='LearnableQueries', channels=320),
                loss_decode=dict(type='ValidCrossEntropyLoss'),
            ),
            test_cfg=dict(mode='whole'),
        ),
    ),
)
# The second head learns its classes from scratch, and wants smaller steps than the first.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '_delete_': True,
            'students.a.backbone': dict(lr_mult=0.4),
            'students.b.backbone': dict(lr_mult=0.08),
            'students.b.decode_head': dict(lr_mult=0.2),
        }
    )
)
custom_hooks = [dict(type='PseudoLabelStatsHook', interval=50)]
