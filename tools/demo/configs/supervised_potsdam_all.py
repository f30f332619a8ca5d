# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# All of the demo's training scenes labelled: what labels everywhere would give.
_base_ = './supervised_potsdam_3-32.py'

train_dataloader = dict(dataset=dict(labelled=dict(ann_file='splits/scene/train.txt')))
