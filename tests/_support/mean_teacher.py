# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A mean teacher of tiny networks, and a batch for it."""

import torch
from mmseg.registry import MODELS

from tests._support.networks import CLASSES, SIZE, samples, student, total


def build(layer='GN', aux=False, ema=True, **settings):
    torch.manual_seed(0)
    semi = dict(conf_thresh=0.0, cutmix=None)
    semi.update(settings)
    model = MODELS.build(
        dict(
            type='MeanTeacherSegmentor',
            student=student(layer, aux),
            ema=ema,
            semi_train_cfg=semi,
            data_preprocessor=dict(type='SemiDataPreprocessor'),
        )
    )
    model.init_weights()
    with torch.no_grad():  # decided predictions
        model.student.decode_head.conv_seg.weight.mul_(100)
    model.update_teacher(0.0)
    return model.train()


def batch(count=2, seed=0, valid=None):
    generator = torch.Generator().manual_seed(seed)
    images = {
        branch: torch.randn(count, 3, SIZE, SIZE, generator=generator)
        for branch in ('sup', 'weak', 'strong')
    }
    labels = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=generator)
    labels[:, :2] = 255
    return images, {
        'sup': samples(count, labels),
        'weak': samples(count, valid=valid),
        'strong': samples(count, valid=valid),
    }


def gradients(model, inputs, data):
    model.zero_grad()
    total(model.loss(inputs, data)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
