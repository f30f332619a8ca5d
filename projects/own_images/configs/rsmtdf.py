# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""RS-MTDF: FixMatch, distilled from a frozen network of another training and fused with it."""

_base_ = './base.py'

model = dict(
    student=dict(
        type='DistillEncoderDecoder',
        decode_head=dict(
            _delete_=True,
            type='MultiTeacherDistillHead',
            decode_head={{_base_.decode_head}},
            teachers=dict(
                voc=dict(
                    type='FrozenTeacher',
                    backbone={{_base_.backbone}},
                    out_index=-1,
                    input_size=None,
                    input_stats=dict(mean=[127.5] * 3, std=[127.5] * 3),
                )
            ),
            translator=dict(hidden=256),
            student_view='shared',
        ),
    )
)
