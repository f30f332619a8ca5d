# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# SemiEarth: the FixMatch model with an EMA teacher, whose pseudo labels a vision-language model
# purifies. The evidence is made once, by `python tools/vlm_annotate.py CONFIG`.
_base_ = [
    '../../_base_/models/fixmatch_dinov2-s.py',
    '../../_base_/schedules/semi_adamw_poly.py',
    '../../_base_/default_runtime.py',
]

# Correct where the teacher is unsure or near a boundary, and the evidence is clear; support where
# both agree. How far each class is trusted is learnt on labelled tiles.
purify = dict(
    type='VLMPurifyHook',
    policy=dict(
        type='EvidencePolicy',
        tau=0.7,
        gate=0.8,
        margin=0.3,
        support_gate=0.95,
        band=dict(radius=8),
    ),
    interval=50,
)
clip = dict(type='CLIPVerifier', arch='ViT-L-14-quickgelu', checkpoint='checkpoints/ViT-L-14.pt')
qwen = dict(
    type='GenerativeVerifier',
    model='Qwen/Qwen2.5-VL-7B-Instruct',
    masks=dict(model='facebook/sam-vit-base'),
)
# The published lengths belong to 8 GPUs with 4 labelled + 4 unlabelled crops each.
auto_scale_lr = dict(base_batch_size=64)
