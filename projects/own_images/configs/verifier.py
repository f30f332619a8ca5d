# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The supervised method with other features: who verifies the labels of semiearth.py."""

_base_ = './supervised.py'

model = dict(student=dict(backbone=dict(arch='lite2'), decode_head=dict(in_channels=[24, 48, 120])))
