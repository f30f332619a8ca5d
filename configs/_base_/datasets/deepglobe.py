# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# DeepGlobe Land Cover, 25 patches of 512 px per image (`tools/dataset_converters/deepglobe.py`).
# Lists name patches with their folder (`train/119_0_0_512_512`): one prefix serves any split.
_base_ = './semi_518.py'

images = dict(
    type='DeepGlobeDataset', data_root='data/deepglobe', data_prefix=dict(img_path='img_dir')
)
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(dataset=dict(labelled=images_and_labels, unlabelled=images))
val_dataloader = dict(dataset=images_and_labels)
test_dataloader = dict(dataset=images_and_labels)

# Six classes; unknown (raw 6) is ignored in training and evaluation.
