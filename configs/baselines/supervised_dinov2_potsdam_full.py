# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The upper bound: all labels. 3,312 training patches, all labelled: 3,312.
_base_ = './supervised_dinov2_potsdam_1-4.py'
train_dataloader = dict(dataset=dict(labelled=dict(ann_file='splits/scene/train.txt')))
