# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Both students of the demo's Co2S on the labelled quarter alone.
_base_ = './co2s_potsdam_1-4.py'

train_dataloader = dict(
    batch_size=8,
    sampler=dict(batch_size=8, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
