# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Two tiny students that teach each other, and a batch for them."""

import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from tests._support.networks import CLASSES, SIZE, samples, student

GATE = 0.5


def build(layer='GN', aux=False, ema=False, sharp=1.0, test=None, students=None, **settings):
    torch.manual_seed(0)
    semi = dict(conf_thresh=GATE, cutmix=None)
    semi.update(settings)
    model = MODELS.build(
        dict(
            type='DualStudentSegmentor',
            students=students or dict(a=student(layer, aux), b=student(layer)),
            ema=ema,
            semi_train_cfg=semi,
            semi_test_cfg=test,
            data_preprocessor=dict(type='SemiDataPreprocessor'),
        )
    )
    model.init_weights()
    probe = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():  # varied predictions, different ones of each student
        for network in model.students.values():
            layer = network.decode_head.conv_seg
            layer.weight.normal_()
            scores = network.decode_head(network.backbone(probe))
            layer.weight.mul_(sharp / scores.std(dim=(0, 2, 3))[:, None, None, None])
            layer.bias.sub_(sharp * scores.mean((0, 2, 3)) / scores.std((0, 2, 3)))
    model.update_teacher(0.0)
    for network in (*model.students.values(), *model.teachers.values()):
        network.test_cfg = ConfigDict(network.test_cfg)
    return model.train()


def batch(count=2, seed=0, valid=None):
    generator = torch.Generator().manual_seed(seed)
    images = {
        branch: torch.randn(count, 3, SIZE, SIZE, generator=generator)
        for branch in ('sup', 'weak', 'strong_1', 'strong_2')
    }
    labels = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=generator)
    labels[:, :2] = 255
    unlabelled = {name: samples(count, valid=valid) for name in images if name != 'sup'}
    return images, {'sup': samples(count, labels), **unlabelled}
