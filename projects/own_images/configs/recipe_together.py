# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The recipe with warped boundaries, the vote in superpixels and measured thresholds at once."""

_base_ = './recipe_calibrated.py'

warped = dict(_base_.labelled_views, sup=[dict(type='LabelWarp', prob=0.5), _base_.pack])
train_dataloader = dict(
    dataset=dict(labelled=dict(pipeline=[*_base_.load, _base_.geometry, warped]))
)
regions = dict(
    type='VLMPurifyHook',
    verifier=dict(type='SuperpixelProposer'),
    budget=_base_.per_step,
    interval=50,
)
custom_hooks = [*_base_.custom_hooks, regions]
