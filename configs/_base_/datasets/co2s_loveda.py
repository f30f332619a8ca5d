# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# LoveDA, whole images of 1024 px (`tools/dataset_converters/loveda.py --window whole` into a folder
# of its own), as Co2S trains and reports. `python tools/make_splits.py loveda --preset co2s
# --data-root data/loveda_1024` writes train / val: 3,771 / 420 of the 4,191 images of Train and Val
# together, drawn one by one; test is val.
_base_ = './co2s_512.py'

geometry = dict(
    type='TrackGeometry',
    transforms=[
        # long side to an integer in [512, 2047]
        dict(
            type='RandomResize',
            scale=(1024, 1024),
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
            resize_type='AntialiasedResize',
        ),
        *_base_.geometry.transforms[1:],
    ],
)
labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_two_views]
unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_two_views]
# no Resize: windows slide over the image as it is
test_pipeline = [_base_.test_pipeline[0], *_base_.test_pipeline[2:]]

images = dict(
    type='LoveDADataset', data_root='data/loveda_1024', data_prefix=dict(img_path='img_dir')
)
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(
    dataset=dict(
        labelled=dict(images_and_labels, pipeline=labelled_pipeline),
        unlabelled=dict(images, pipeline=unlabelled_pipeline),
    ),
)
val_dataloader = dict(
    dataset=dict(images_and_labels, ann_file='splits/co2s/val.txt', pipeline=test_pipeline)
)
test_dataloader = dict(
    dataset=dict(images_and_labels, ann_file='splits/co2s/test.txt', pipeline=test_pipeline)
)

# All seven classes count, background included; no-data pixels (raw 0) are ignored.
