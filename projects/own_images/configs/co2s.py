# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Co2S after a burn-in: two students of other features that teach each other."""

_base_ = './unimatchv2.py'

second = dict(
    _base_.model.student,
    backbone=dict(type='EfficientNetLite', arch='lite2', out_indices=(1, 2, 3)),
    decode_head=dict(_base_.decode_head, in_channels=[24, 48, 120]),
)
second['backbone'].update(checkpoint='imagenet')
train_dataloader = dict(
    # half of the unlabelled images, of which there are two strong views
    batch_size=_base_.per_step * 3 // 2,
    sampler=dict(batch_size=_base_.per_step * 3 // 2, source_ratio=[2, 1]),
)
model = dict(
    _delete_=True,
    type='DualStudentSegmentor',
    data_preprocessor=_base_.model.data_preprocessor,
    students=dict(a=_base_.model.student, b=second),
    semi_train_cfg=dict(unsup_start=0.4),
)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='PseudoLabelStatsHook', interval=50),
    dict(type='PseudoLabelGuardHook'),
]
