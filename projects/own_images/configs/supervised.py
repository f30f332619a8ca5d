# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The labelled images alone, as many of them in each step."""

_base_ = ['./base.py', '../../../configs/_base_/models/fixmatch_efficientnet-lite0.py']

train_dataloader = dict(
    batch_size=_base_.per_step,
    sampler=dict(batch_size=_base_.per_step, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
