# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 512 px tiles in crops of 518 px (37 x 14), with one strong view or two. A dataset file adds its
# type, folders and metric, a leaf its split.
_base_ = './semi.py'

crop_size = (518, 518)
window_size = 512  # side of the tiles that test_pipeline is for; tools/predict.py cuts such windows
# One geometry for all views. No Pad: a smaller crop stays small (and cheap) until
# SemiDataPreprocessor pads the batch right and bottom (label 255, valid False).
geometry = dict(
    type='TrackGeometry',
    transforms=[
        # long side to a uniform integer in [256, 1023], for 512 px tiles
        dict(
            type='RandomResize',
            scale=(512, 512),
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
            resize_type='AntialiasedResize',
        ),
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        dict(type='RandomFlip', prob=0.5),
    ],
)
labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_views]
unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_views]
# A leaf takes two strong views by `train_dataloader = dict(dataset=_base_.two_strong)`.
two_strong = dict(
    labelled=dict(pipeline=[*_base_.load_labelled, geometry, _base_.labelled_two_views]),
    unlabelled=dict(pipeline=[*_base_.load_unlabelled, geometry, _base_.unlabelled_two_views]),
)
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    # after Resize: the logits are brought back to the size of the label, not the reverse
    *_base_.test_pipeline[1:],
]

train_dataloader = dict(
    batch_size=16,  # per GPU: 8 labelled + 8 unlabelled
    sampler=dict(batch_size=16, source_ratio=[1, 1]),
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    ),
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
