# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# GID-15, 18 x 19 patches of 512 px per scene (`tools/dataset_converters/gid15.py`), as Co2S trains
# and reports. `python tools/make_splits.py gid15 --preset co2s` writes train / val: 2,736 / 684 of
# 3,420 patches, drawn one by one: every scene is in both; test is val.
_base_ = './co2s_512.py'

images = dict(type='GID15Dataset', data_root='data/gid15', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt'))
test_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt'))

# All fifteen classes count; unlabelled ground (raw 255) is ignored.
