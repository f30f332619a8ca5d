# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# WHDLD, whole tiles of 256 px (`tools/dataset_converters/whdld.py`), as Co2S trains and reports.
# `python tools/make_splits.py whdld --preset co2s` writes train / val: 4,446 / 494 of 4,940 tiles,
# drawn one by one; test is val. Crops of 256 px, and a batch that has its CutMix partner in itself.
_base_ = './co2s_512.py'

crop_size = (256, 256)
window_size = 256
geometry = dict(
    type='TrackGeometry',
    transforms=[
        _base_.geometry.transforms[0],
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        _base_.geometry.transforms[2],
    ],
)
labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_two_views]
unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_two_views]

images = dict(type='WHDLDDataset', data_root='data/whdld', data_prefix=dict(img_path='img_dir'))
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(
    batch_size=4,  # per GPU: 2 labelled + 2 unlabelled
    sampler=dict(batch_size=4, source_ratio=[2, 2]),
    dataset=dict(
        labelled=dict(images_and_labels, pipeline=labelled_pipeline),
        unlabelled=dict(images, pipeline=unlabelled_pipeline),
    ),
)
val_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt'))
test_dataloader = dict(dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt'))
