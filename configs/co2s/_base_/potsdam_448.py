# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Potsdam in crops and windows of 448 px, which are whole patches of 14 px and of 16 px.
_base_ = './potsdam.py'

crop_size = (448, 448)
windows = dict(crop_size=crop_size, stride=(373, 373))
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
train_dataloader = dict(
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    )
)
model = dict(
    data_preprocessor=dict(size=crop_size),
    students=dict(a=dict(test_cfg=windows), b=dict(test_cfg=windows)),
)
