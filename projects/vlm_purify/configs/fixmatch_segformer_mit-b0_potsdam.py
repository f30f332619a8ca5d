# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Plain FixMatch with an EMA teacher around mmseg's SegFormer (MiT-B0), on the demo's scenes.
_base_ = '../../segformer_distill/configs/mean-teacher_segformer_mit-b0_dinov2-s_potsdam.py'

model = dict(
    student=dict(
        type='EncoderDecoder',
        decode_head=dict(_delete_=True, **_base_.segformer.decode_head.decode_head),
    ),
)
