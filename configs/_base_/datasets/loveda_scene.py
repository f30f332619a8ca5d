# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# No scene is in two lists. `python tools/make_splits.py loveda` writes train / val / test:
# 2,515 / 838 / 838 of the 4,191 images of Train and Val, 10,060 / 3,352 / 3,352 patches.
_base_ = './loveda.py'

val_dataloader = dict(dataset=dict(ann_file='splits/scene/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/scene/test.txt'))
