# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The steps of all pipelines, and what all loaders have in common. A file of one crop size puts its
# geometry between loading and views:
#   labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_views]
#   unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_views]
load_labelled = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='AddValidMask'),
]
load_unlabelled = [dict(type='LoadImageFromFile'), dict(type='AddValidMask')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

# Of the strong views, as published; strength may be 'published', 'mild' or 'geometric'.
photometry = [dict(type='Photometry', strength='published')]
pack = dict(type='PackSemiInputs')
# Moves the boundaries of masks a little; off, as in the published trainings.
label_warp = dict(type='LabelWarp', prob=0.0)
labelled_view = [label_warp, pack]
strong_view = [*photometry, pack]
branches = ['sup', 'weak', 'strong']
labelled_views = dict(type='MultiBranch', branch_field=branches, sup=labelled_view)
unlabelled_views = dict(type='MultiBranch', branch_field=branches, weak=[pack], strong=strong_view)
# Two strong views, each of which draws its own photometry.
two_branches = ['sup', 'weak', 'strong_1', 'strong_2']
labelled_two_views = dict(type='MultiBranch', branch_field=two_branches, sup=labelled_view)
unlabelled_two_views = dict(
    type='MultiBranch',
    branch_field=two_branches,
    weak=[pack],
    strong_1=strong_view,
    strong_2=strong_view,
)

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SemiSampler'),
    dataset=dict(type='SemiDataset'),
)
val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='SubsetIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
