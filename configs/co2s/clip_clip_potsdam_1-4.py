# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: two CLIP students with the same text, that differ in the initial weights of their heads.
_base_ = './clip_dinov3_potsdam_1-4.py'

model = dict(students=dict(b=dict(_delete_=True, **_base_.clip)))
# no query is learnt
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(_delete_=True, backbone=dict(lr_mult=0.01), decode_head=dict(lr_mult=10.0))
    )
)
