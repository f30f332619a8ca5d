# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF on the demo's scenes. The two frozen teachers are tiny stand-ins for DINOv2 and CLIP, made
# by tools/make_demo_teachers.py without any class label.
_base_ = './_base_demo.py'

model = dict(
    student=dict(
        type='DistillEncoderDecoder',
        decode_head=dict(
            _delete_=True,
            type='MultiTeacherDistillHead',
            decode_head={{_base_.model.student.decode_head}},
            teachers=dict(
                dino=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='DINOv2',
                        arch=dict(embed_dims=64, num_layers=4, num_heads=2, out_indices=(3,)),
                        img_size=128,
                        patch_size=8,
                        checkpoint='data/demo_teachers/dinov2.pth',
                    ),
                    input_stats=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
                ),
                clip=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='CLIPVision',
                        arch=dict(width=64, layers=4, heads=2, patch_size=8, image_size=64),
                        checkpoint='data/demo_teachers/clip.pt',
                    ),
                    input_size=64,
                    input_stats=dict(
                        mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]
                    ),
                ),
            ),
            translator=dict(hidden=128),
            fusion=dict(weights=dict(student=0.8, dino=0.1, clip=0.1)),
            loss_distill=dict(target_norm='layernorm'),
        ),
    ),
)
