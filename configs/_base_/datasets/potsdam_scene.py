# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# No scene is in two lists. `python tools/make_splits.py potsdam` writes train / val / test:
# 23 / 8 / 7 of the 38 tiles, 3,312 / 1,152 / 1,008 patches.
_base_ = './potsdam.py'

val_dataloader = dict(dataset=dict(ann_file='splits/scene/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/scene/test.txt'))
