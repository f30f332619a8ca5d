# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# No scene is in two lists. `python tools/make_splits.py deepglobe` writes train / val / test:
# 482 / 161 / 160 of the 803 images, 12,050 / 4,025 / 4,000 patches.
_base_ = './deepglobe.py'

val_dataloader = dict(dataset=dict(ann_file='splits/scene/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/scene/test.txt'))
