# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Co2S on the demo's scenes: two students of the same size, one with the demo's head, one that
# compares places with a learnt query for each class, teach each other.
_base_ = './_base_demo.py'

train_dataloader = dict(dataset=_base_.two_strong)
model = dict(
    _delete_=True,
    type='DualStudentSegmentor',
    data_preprocessor=_base_.model.data_preprocessor,
    students=dict(
        a=_base_.model.student,
        b=dict(
            type='EncoderDecoder',
            backbone=dict(_base_.model.student.backbone, strides=(1, 2, 2), dilations=(1, 1, 1)),
            decode_head=dict(
                type='VLGHead',
                in_channels=[16, 32, 64],
                channels=32,
                text_channels=32,
                up_channels=(32, 16),
                skip_channels=(16, 8),
                num_classes=6,
                dilations=(1, 2, 3),  # of 8 x 8 places
                class_embedding=dict(type='LearnableQueries', channels=64),
                loss_decode=dict(type='ValidCrossEntropyLoss'),
            ),
            test_cfg=dict(mode='whole'),
        ),
    ),
)
custom_hooks = [dict(type='PseudoLabelStatsHook', interval=50)]
