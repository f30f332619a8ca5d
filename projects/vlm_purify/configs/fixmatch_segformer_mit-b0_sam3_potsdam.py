# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The plain FixMatch SegFormer, purified by SAM 3 told in words what the classes are, its thresholds
# fitted to the labelled tiles in the place of trust; then by the vote in SAM 3's regions.
_base_ = './fixmatch_segformer_mit-b0_potsdam.py'

purify = dict(
    type='VLMPurifyHook',
    verifier=dict(type='Sam3Verifier', classes='potsdam', model='facebook/sam3'),
    thresholds=dict(type='ConformalThresholds', alpha=0.1),
    store='data/evidence/demo_potsdam',
    interval=20,
)
regions = dict(
    type='VLMPurifyHook',
    verifier=dict(type='SAMProposer', model='facebook/sam3'),  # or SuperpixelProposer, no weights
    policy=dict(type='RegionVote', share=0.6),
    store='data/evidence/demo_potsdam',
    interval=20,
)
custom_hooks = [*_base_.custom_hooks, purify, regions]
