# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The recipe, with thresholds for each class that are measured on every fourth labelled image.

compare.py takes these images off the list of those that are learnt from.
"""

_base_ = './recipe.py'

calibrate = dict(type='CalibrateGateHook', dataset=_base_.evaluate.dataset, alpha=0.1)
custom_hooks = [*_base_.custom_hooks, calibrate]
model = dict(semi_train_cfg=dict(gate=dict(_delete_=True, type='ConformalGate')))
