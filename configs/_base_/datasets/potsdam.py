# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# ISPRS Potsdam, 144 patches of 512 px per tile (`tools/dataset_converters/potsdam.py`). Lists name
# patches with their folder (`train/2_10_0_0_512_512`), so that one prefix serves any split.
_base_ = './semi_518.py'

images = dict(type='PotsdamDataset', data_root='data/potsdam', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=images_and_labels)
test_dataloader = dict(dataset=images_and_labels)

# Clutter is trained but not evaluated: its pixels are ignored, the mean is over the other five.
val_evaluator = dict(ignore_gt=['clutter'])
test_evaluator = val_evaluator
