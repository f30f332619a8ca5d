# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# SemiEarth on the demo's scenes: FixMatch whose pseudo labels a small CLIP purifies, the one in
# tools/demo/configs/teachers. Its evidence is made by tools/vlm_annotate.py.
_base_ = './_base_demo.py'

purify = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='CLIPVerifier',
        classes='potsdam',
        arch=dict(
            vision=dict(width=64, layers=4, heads=2, patch_size=8, image_size=128, embed_dim=64),
            text=dict(width=14, layers=2, heads=2, embed_dim=64, context_length=40),
        ),
        checkpoint='{{fileDirname}}/teachers/clip.pt',
        distractors=('sports court', 'construction site', 'pond'),
        temperature='data/evidence/demo_potsdam/clip_temperature.json',  # fitted by the first run
    ),
    store='data/evidence/demo_potsdam',
    # the better of three policies on scenes of seed 7
    policy=dict(type='EvidencePolicy', gate=0.5, margin=0.2, support_gate=0.8, scope='all'),
    interval=50,
)
custom_hooks = [*_base_.custom_hooks, purify]
