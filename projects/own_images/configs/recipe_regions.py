# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The recipe, with the vote of the pseudo labels in superpixels; made when they first come up."""

_base_ = './recipe.py'

regions = dict(
    type='VLMPurifyHook',
    verifier=dict(type='SuperpixelProposer'),
    budget=_base_.per_step,
    interval=50,
)
custom_hooks = [*_base_.custom_hooks, regions]
