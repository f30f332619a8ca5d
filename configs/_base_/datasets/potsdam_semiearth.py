# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# SemiEarth's own lists. `python tools/make_splits.py potsdam --preset semiearth` writes
# train / val / test: 3,283 / 1,094 / 1,095 of 5,472 patches, drawn one by one: every tile is in
# all three.
_base_ = './potsdam.py'

val_dataloader = dict(dataset=dict(ann_file='splits/semiearth/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/semiearth/test.txt'))
