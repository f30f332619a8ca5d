# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""FixMatch after a burn-in, the surest half of each class, mild photometry."""

_base_ = ['./base.py', '../../../configs/_base_/models/fixmatch_efficientnet-lite0.py']

strong = [dict(type='Photometry', strength='mild'), _base_.pack]
unlabelled_pipeline = [
    *_base_.unlabelled_pipeline[:-1],
    dict(type='MultiBranch', branch_field=_base_.branches, weak=[_base_.pack], strong=strong),
]
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=unlabelled_pipeline)))
model = dict(semi_train_cfg=dict(gate=dict(type='ClassQuantileGate'), unsup_start=0.4))
