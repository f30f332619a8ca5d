# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The upper bound: all labels. 10,060 training patches, all labelled: 10,060.
_base_ = './supervised_dinov2_loveda_1-4.py'
train_dataloader = dict(dataset=dict(labelled=dict(ann_file='splits/scene/train.txt')))
