# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# ISPRS Potsdam, 144 patches of 512 px per tile (`tools/dataset_converters/potsdam.py`), as Co2S
# trains and reports. `python tools/make_splits.py potsdam --preset co2s` writes train / val:
# 4,924 / 548 of 5,472 patches, drawn one by one: every tile is in both; test is val.
_base_ = './co2s_512.py'

images = dict(type='PotsdamDataset', data_root='data/potsdam', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt'))
test_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt'))

# All six classes count, clutter included.
