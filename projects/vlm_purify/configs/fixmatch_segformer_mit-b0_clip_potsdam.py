# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The plain FixMatch SegFormer, purified. The small CLIP is the demo's; for a real one, drop arch,
# checkpoint and distractors.
_base_ = './fixmatch_segformer_mit-b0_potsdam.py'

purify = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='CLIPVerifier',
        classes='potsdam',
        arch=dict(
            vision=dict(width=64, layers=4, heads=2, patch_size=8, image_size=128, embed_dim=64),
            text=dict(width=14, layers=2, heads=2, embed_dim=64, context_length=40),
        ),
        checkpoint='tools/demo/configs/teachers/clip.pt',
        distractors=('sports court', 'construction site', 'pond'),
        temperature='data/evidence/demo_potsdam/clip_temperature.json',  # fitted by the first run
    ),
    store='data/evidence/demo_potsdam',
    interval=20,
)
custom_hooks = [*_base_.custom_hooks, purify]
