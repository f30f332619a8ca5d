# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The two students of Co2S on the labelled images alone."""

_base_ = './co2s.py'

train_dataloader = dict(
    batch_size=4,
    sampler=dict(batch_size=4, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
