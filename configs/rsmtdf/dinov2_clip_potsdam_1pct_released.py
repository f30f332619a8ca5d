# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The switches as the June 2025 release has them, defects R5, R6, R9, R10 and R11 included. For
# comparison only; README.md says what each one does.
_base_ = './dinov2_clip_potsdam_1pct.py'

as_they_come = dict(input_stats=None, antialias=False, align_corners=True)
model = dict(
    student=dict(
        view_resize=dict(antialias=False, align_corners=True),
        decode_head=dict(teachers=dict(clip=as_they_come), loss_distill=dict(mask='none')),
    ),
    semi_train_cfg=dict(cutmix=dict(partner='reverse')),
    semi_test_cfg=dict(predict_on='student'),
)
test_evaluator = dict(ignore_gt=['impervious_surface'])
