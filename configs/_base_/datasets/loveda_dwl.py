# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The published percent protocol. `python tools/make_splits.py loveda --preset dwl` writes
# train / val / test: 10,088 patches of Train, and the halves of Val, 3,338 patches each.
_base_ = './loveda.py'

val_dataloader = dict(dataset=dict(ann_file='splits/dwl/val.txt'))
test_dataloader = dict(dataset=dict(ann_file='splits/dwl/test.txt'))
