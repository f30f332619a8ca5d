# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Everything the datasets of the Co2S protocol share: two strong views of the unlabelled image,
# samplers, loaders. A dataset file adds its type, folders, metric and lists, and says what of the
# geometry is its own; a leaf adds the labelled and unlabelled list.
_base_ = './photometry.py'

crop_size = (512, 512)
window_size = 512  # side of the tiles that test_pipeline is for; tools/predict.py cuts such windows
branches = ['sup', 'weak', 'strong_1', 'strong_2']
# One geometry for all views. No Pad: a smaller crop stays small (and cheap) until the preprocessor
# pads the batch right and bottom (label 255, valid False).
geometry = dict(
    type='TrackGeometry',
    transforms=[
        # the side of a square tile, else the short one, to an integer in [256, 1023], whatever the
        # tile's own size
        dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        dict(type='RandomFlip', prob=0.5),
    ],
)
# A dataset with a geometry of its own puts it in the place of this one, see co2s_whdld.py.
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
        # each draws its own photometry
        strong_1=[*_base_.photometry, dict(type='PackSemiInputs')],
        strong_2=[*_base_.photometry, dict(type='PackSemiInputs')],
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(512, 512), keep_ratio=False),
    # after Resize: the logits are brought back to the size of the label, not the reverse
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    # per GPU: 1 labelled + 1 unlabelled, and another unlabelled image that CutMix pastes from
    batch_size=3,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', batch_size=3, source_ratio=[1, 2]),
    dataset=dict(
        type='SemiDataset',
        labelled=dict(pipeline=labelled_pipeline),
        unlabelled=dict(pipeline=unlabelled_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,  # windows of one image are a batch of their own
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
