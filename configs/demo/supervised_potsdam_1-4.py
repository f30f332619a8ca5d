# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The demo's labelled quarter alone: same student, same steps, 8 labelled crops in each.
_base_ = './_base_demo.py'

train_dataloader = dict(
    batch_size=8,
    sampler=dict(batch_size=8, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
