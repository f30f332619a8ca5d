# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The upper bound: all labels. 12,050 training patches, all labelled: 12,050.
_base_ = './supervised_dinov2_deepglobe_1-4.py'
train_dataloader = dict(dataset=dict(labelled=dict(ann_file='splits/scene/train.txt')))
