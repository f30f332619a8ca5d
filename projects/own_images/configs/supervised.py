# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The labelled images alone, same number of steps and labelled images per step."""

_base_ = './base.py'

train_dataloader = dict(
    batch_size=4,
    sampler=dict(batch_size=4, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
