# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: two DINOv3 students, that differ in the initial weights of their heads and queries.
_base_ = './clip_dinov3_potsdam_1-4.py'

model = dict(students=dict(a=dict(_delete_=True, **_base_.dinov3)))
