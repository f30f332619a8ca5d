# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# CLIP and DINOv3 on WHDLD; a leaf adds the lists and the length.
_base_ = [
    '../../_base_/datasets/co2s_whdld.py',
    '../../_base_/models/co2s_clip_dinov3-b.py',
    '../../_base_/schedules/co2s_adamw_poly.py',
    '../../_base_/default_runtime.py',
]
# Tiles of 256 px: smaller crops and windows, 2 labelled + 2 unlabelled per GPU, which paste from
# each other.
windows = dict(crop_size=(256, 256), stride=(213, 213))
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    students=dict(
        a=dict(decode_head=dict(class_embedding=dict(concepts='whdld')), test_cfg=windows),
        b=dict(test_cfg=windows),
    ),
    semi_train_cfg=dict(donors=0),
)
auto_scale_lr = dict(base_batch_size=16)
