# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# How RS-MTDF distils frozen DINOv2 and CLIP, and fuses them into any decode head:
#   decode_head=dict(**_base_.distill, decode_head=dict(...))
distill = dict(
    type='MultiTeacherDistillHead',
    teachers=dict(
        # sees the student's own pixels; block 11 after the final LayerNorm
        dino=dict(
            type='FrozenTeacher',
            backbone=dict(
                type='DINOv2',
                arch='base',
                out_indices=(11,),
                checkpoint='checkpoints/dinov2_vitb14_pretrain.pth',
            ),
            input_stats=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        ),
        # sees them at 224 px with CLIP's statistics; last block before ln_post
        clip=dict(
            type='FrozenTeacher',
            backbone=dict(
                type='CLIPVision',
                arch='ViT-L-14-quickgelu',
                out_indices=(23,),
                checkpoint='checkpoints/ViT-L-14.pt',
            ),
            input_size=224,
            input_stats=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
        ),
    ),
    translator=dict(hidden=1024),
    fusion=dict(weights=dict(student=0.8, dino=0.1, clip=0.1)),
    student_view='resized',
    loss_distill=dict(loss_weight=1.0, mask='valid'),
)
