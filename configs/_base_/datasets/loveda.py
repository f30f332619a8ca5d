# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# LoveDA, 4 quadrants of 512 px per image (`tools/dataset_converters/loveda.py`). Lists name patches
# with their folder (`train/0_0_0_512_512`), so that one prefix serves any split.
_base_ = './semi_518.py'

images = dict(type='LoveDADataset', data_root='data/loveda', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=images_and_labels)
test_dataloader = dict(dataset=images_and_labels)

# All seven classes count, background included; no-data pixels (raw 0) are ignored.
