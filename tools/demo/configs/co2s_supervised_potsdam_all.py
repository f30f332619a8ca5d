# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Both students of the demo's Co2S, with all of the training scenes labelled.
_base_ = './co2s_supervised_potsdam_3-32.py'

train_dataloader = dict(dataset=dict(labelled=dict(ann_file='splits/scene/train.txt')))
