# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF on the demo's scenes. The two frozen teachers are small stand-ins for DINOv2 and CLIP in
# tools/demo/configs/teachers; tools/make_demo_teachers.py has trained them on hundreds of other
# fabricated places, without any class map.
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
                        checkpoint='{{fileDirname}}/teachers/dinov2.pth',
                    ),
                    input_stats=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
                ),
                clip=dict(
                    type='FrozenTeacher',
                    backbone=dict(
                        type='CLIPVision',
                        arch=dict(
                            width=64,
                            layers=4,
                            heads=2,
                            patch_size=8,
                            image_size=128,
                            embed_dim=64,
                        ),
                        value_path=True,
                        dense=True,
                        checkpoint='{{fileDirname}}/teachers/clip.pt',
                    ),
                    input_stats=dict(
                        mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]
                    ),
                ),
            ),
            translator=dict(hidden=128),
            fusion=dict(weights=dict(student=0.2, dino=0.4, clip=0.4)),
            loss_distill=dict(target_norm='layernorm'),
        ),
    ),
    # chosen on scenes of seed 7, as the fusion's weights
    semi_train_cfg=dict(norm='joint', loss_weight=dict(unsup=0.1, distill=3.0)),
)
