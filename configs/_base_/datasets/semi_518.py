# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Everything the datasets share: augmentation of 512 px tiles into 518 px (37 x 14) crops, samplers,
# loaders. A dataset file adds its type, folders and metric, a leaf its lists.
_base_ = './photometry.py'

crop_size = (518, 518)
window_size = 512  # side of the tiles that test_pipeline is for; tools/predict.py cuts such windows
branches = ['sup', 'weak', 'strong']
# One geometry for all views. No Pad: a smaller crop stays small (and cheap) until
# SemiDataPreprocessor pads the batch right and bottom (label 255, valid False).
geometry = dict(
    type='TrackGeometry',
    transforms=[
        # long side to a uniform integer in [256, 1023], for 512 px tiles
        dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        dict(type='RandomFlip', prob=0.5),
    ],
)
labelled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='AddValidMask'),
    geometry,
    dict(type='MultiBranch', branch_field=branches, sup=[dict(type='PackSemiInputs')]),
]
unlabelled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='AddValidMask'),
    geometry,
    dict(
        type='MultiBranch',
        branch_field=branches,
        weak=[dict(type='PackSemiInputs')],
        strong=[*_base_.photometry, dict(type='PackSemiInputs')],
    ),
]
# The same with two strong views, each with a photometry of its own. A leaf takes it by
# `train_dataloader = dict(dataset=_base_.two_strong)`.
two_branches = ['sup', 'weak', 'strong_1', 'strong_2']
two_strong = dict(
    labelled=dict(
        pipeline=[
            *labelled_pipeline[:-1],
            dict(type='MultiBranch', branch_field=two_branches, sup=[dict(type='PackSemiInputs')]),
        ]
    ),
    unlabelled=dict(
        pipeline=[
            *unlabelled_pipeline[:-1],
            dict(
                type='MultiBranch',
                branch_field=two_branches,
                weak=[dict(type='PackSemiInputs')],
                strong_1=[*_base_.photometry, dict(type='PackSemiInputs')],
                strong_2=[*_base_.photometry, dict(type='PackSemiInputs')],
            ),
        ]
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    # after Resize: the logits are brought back to the size of the label, not the reverse
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=16,  # per GPU: 8 labelled + 8 unlabelled
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', batch_size=16, source_ratio=[1, 1]),
    dataset=dict(
        type='SemiDataset',
        labelled=dict(pipeline=labelled_pipeline),
        unlabelled=dict(pipeline=unlabelled_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
