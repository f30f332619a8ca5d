# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The fastest library form of each step on BGR arrays; ColorTransform with magnitude -1 is the
# luma greyscale (mmcv's RandomGrayscale takes ten times as long).
photometry = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(
                type='mmpretrain.ColorJitter',
                brightness=0.5,
                contrast=0.5,
                saturation=0.5,
                hue=0.25,
                backend='cv2',
            )
        ],
    ),
    dict(type='mmpretrain.ColorTransform', magnitude=-1.0, prob=0.2, random_negative_prob=0.0),
    dict(
        type='mmpretrain.GaussianBlur',
        magnitude_range=(0.1, 2.0),
        magnitude_std='inf',  # uniform in the range
        prob=0.5,
    ),
]
