# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF: the FixMatch model whose student also predicts, and fuses, the patch features of two
# frozen foundation models. Without weight files:
#   --cfg-options model.student.backbone.checkpoint=None
#     model.student.decode_head.teachers.dino.backbone.checkpoint=None
#     model.student.decode_head.teachers.clip.backbone.checkpoint=None
_base_ = ['./fixmatch_dinov2-s.py', './distill_dinov2_clip.py']

model = dict(
    student=dict(
        type='DistillEncoderDecoder',
        decode_head=dict(
            _delete_=True,
            **_base_.distill,
            decode_head=_base_.model.student.decode_head,
        ),
    ),
)
