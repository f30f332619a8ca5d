# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# MSL part of Mars-Seg, whole frames, 560 x 500 px (`tools/dataset_converters/mars.py --part msl`),
# as Co2S trains and reports. `python tools/make_splits.py msl --preset co2s` writes train / val:
# 3,141 / 786 of 3,927 frames, drawn one by one; test is val. Frames keep their shape in training
# and become square in the one window of the test.
_base_ = './co2s_512.py'

images = dict(type='MSLDataset', data_root='data/msl', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt'))
test_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt'))

# All nine classes count, unknown and background included.
