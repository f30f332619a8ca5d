# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF, purified: the CLIP that it distils also looks at the pseudo labels.
_base_ = '../../../configs/rsmtdf/dinov2_clip_potsdam_1-4.py'

purify = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='CLIPVerifier',
        classes='potsdam',
        arch='ViT-L-14-quickgelu',
        checkpoint='checkpoints/ViT-L-14.pt',
        temperature='data/evidence/potsdam/clip_temperature_1-4.json',
    ),
    store='data/evidence/potsdam',
)
custom_hooks = [*_base_.custom_hooks, purify]
