# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""FixMatch whose pseudo labels are purified by the network that verifier.py has trained.

Tiles are verified when they first come up. compare.py fills in who verifies, for which classes.
"""

_base_ = './recipe.py'

custom_imports = dict(
    imports=['mmseg_semi_rs', 'projects.vlm_purify.segmentor_verifier'],
    allow_failed_imports=False,
)
purify = dict(
    type='VLMPurifyHook',
    verifier=dict(type='SegmentorVerifier'),
    budget=4,
    interval=50,
)
custom_hooks = [*_base_.custom_hooks, purify]
