# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The published percent protocol. `python tools/make_splits.py deepglobe --preset dwl` writes
# train / val / test: 12,045 / 4,015 / 4,015 of 20,075 patches, drawn one by one: nearly every image
# is in all three.
_base_ = './deepglobe.py'

val_dataloader = dict(dataset=dict(ann_file='splits/dwl/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/dwl/test.txt'))
