# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Supervised training on all images, most of whose masks `rsseg autolabel` made.

They are those of another method of the comparison, trained before (`labelled_by`). A step has as
many images as one of FixMatch; of the lines of the list, half are of a person's masks.
"""

_base_ = './supervised.py'

labelled_by = 'rsmtdf_recipe'
train_dataloader = dict(
    batch_size=2 * _base_.per_step, sampler=dict(batch_size=2 * _base_.per_step)
)
