# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The Co2S protocol: crops of 512 px, two strong views of the unlabelled image. A dataset file adds
# its type, folders, metric and lists, and says what of the geometry is its own; a leaf adds the
# split.
_base_ = './semi.py'

crop_size = (512, 512)
window_size = 512  # side of the tiles that test_pipeline is for; tools/predict.py cuts such windows
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
labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_two_views]
unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_two_views]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=(512, 512), keep_ratio=False),
    # after Resize: the logits are brought back to the size of the label, not the reverse
    *_base_.test_pipeline[1:],
]

train_dataloader = dict(
    # per GPU: 1 labelled + 1 unlabelled, and another unlabelled image that CutMix pastes from
    batch_size=3,
    sampler=dict(batch_size=3, source_ratio=[1, 2]),
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    ),
)
val_dataloader = dict(
    batch_size=1,  # windows of one image are a batch of their own
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = val_dataloader
