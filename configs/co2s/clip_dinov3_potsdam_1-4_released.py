# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# What the release computes, as far as it is a setting: wrong statistics, activation and epsilons,
# underscores in the prompts, a stability loss without gradient that covers padding, and CLIP's
# student alone is evaluated.
_base_ = './clip_dinov3_potsdam_1-4.py'

concepts = [  # with underscores in the names of two classes
    ['impervious_surface', 'asphalt', 'concrete', 'pavement', 'roof', 'sidewalk'],
    [
        *('building', 'residential building', 'commercial building', 'church', 'factory'),
        'historical building',
    ],
    ['low_vegetation', 'grass', 'lawn', 'meadow', 'pasture', 'flower bed'],
    ['tree', 'deciduous tree', 'evergreen tree', 'tree row', 'park tree', 'forest edge'],
    ['car', 'passenger car', 'truck', 'van', 'bus', 'parked vehicle'],
    ['clutter', 'fence', 'wall', 'railway', 'construction site', 'unclassified object'],
]
model = dict(
    students=dict(
        a=dict(
            data_preprocessor=_base_.preprocessing,
            backbone=dict(quick_gelu=False, norm_eps=1e-6),
            decode_head=dict(class_embedding=dict(concepts=concepts, underscores='verbatim')),
        ),
        b=dict(backbone=dict(norm_eps=1e-6)),
    ),
    semi_train_cfg=dict(stability=dict(grad=False, ties=True, mask='all')),
    semi_test_cfg=dict(predict_on='a'),
)
