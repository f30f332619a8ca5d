# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The two students of Co2S without each other: each is UniMatch by itself."""

_base_ = './co2s.py'

model = dict(semi_train_cfg=dict(stability=None))
