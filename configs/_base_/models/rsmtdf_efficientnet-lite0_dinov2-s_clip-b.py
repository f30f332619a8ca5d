# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF for a small machine: the small student of fixmatch_efficientnet-lite0.py learns from a
# frozen DINOv2 ViT-S/14 and a frozen CLIP ViT-B/16, both of which see 224 px.
_base_ = './rsmtdf_efficientnet-lite0.py'

model = dict(
    student=dict(
        decode_head=dict(
            teachers=dict(
                _delete_=True,
                dino=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='DINOv2',
                        arch='small',
                        out_indices=(11,),
                        checkpoint='checkpoints/dinov2_vits14_pretrain.pth',
                    ),
                    input_size=224,
                    input_stats=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
                ),
                clip=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='CLIPVision',
                        arch='ViT-B-16-quickgelu',
                        out_indices=(11,),
                        checkpoint='checkpoints/ViT-B-16.pt',
                    ),
                    input_size=224,
                    input_stats=dict(
                        mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]
                    ),
                ),
            ),
        ),
    ),
)
