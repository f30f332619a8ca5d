# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# MER part of Mars-Seg, whole frames of 1024 px (`tools/dataset_converters/mars.py --part mer`), as
# Co2S trains and reports. `python tools/make_splits.py mer --preset co2s` writes train / val:
# 851 / 213 of 1,064 frames, drawn one by one; test is val.
_base_ = './co2s_512.py'

window_size = 1024

images = dict(type='MERDataset', data_root='data/mer', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt'))
test_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt'))

# All nine classes count, unknown and background included.
