# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A control of co2s.py: its two students on the labelled images alone, fused alike."""

_base_ = './co2s.py'

train_dataloader = dict(
    batch_size=_base_.per_step,
    sampler=dict(batch_size=_base_.per_step, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
