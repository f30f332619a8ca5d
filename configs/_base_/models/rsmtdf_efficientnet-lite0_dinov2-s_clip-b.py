# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF for a small machine: the small student of fixmatch_efficientnet-lite0.py learns from a
# frozen DINOv2 ViT-S/14 and a frozen CLIP ViT-B/16, both of which see 224 px.
_base_ = ['./rsmtdf_efficientnet-lite0.py', './distill_dinov2_clip.py']

dino, clip = _base_.distill.teachers.dino, _base_.distill.teachers.clip
dinov2_s = dict(dino.backbone, arch='small', checkpoint='checkpoints/dinov2_vits14_pretrain.pth')
clip_b = dict(
    clip.backbone,
    arch='ViT-B-16-quickgelu',
    out_indices=(11,),
    checkpoint='checkpoints/ViT-B-16.pt',
)
model = dict(
    student=dict(
        decode_head=dict(
            teachers=dict(
                _delete_=True,
                dino=dict(dino, input_size=224, backbone=dinov2_s),
                clip=dict(clip, backbone=clip_b),
            ),
        ),
    ),
)
