# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest
import torch

from mmseg_semi_rs.models.segmentors.strong_views import draw_views
from mmseg_semi_rs.models.utils import CutMix
from mmseg_semi_rs.structures import PseudoLabel


def batch(count=4, size=16):
    """Every pixel of image i carries i in the image and in all four target maps."""
    number = torch.arange(count).view(-1, 1, 1).expand(count, size, size)
    images = number[:, None].expand(count, 3, size, size).float().clone()
    target = PseudoLabel(number.clone(), number / 10.0, number / 20.0, number % 2 == 0)
    return images, target


def mix(cutmix, images, target):
    (view,) = draw_views({'strong': images}, cutmix)
    return view.images, view.mix(target)


@pytest.mark.parametrize('partner', ['roll', 'reverse'])
@pytest.mark.parametrize('count', [2, 3, 4, 5])
def test_I6_image_label_weight_and_valid_move_together(partner, count):
    random.seed(0)
    images, target = batch(count)
    mixed, moved = mix(CutMix(prob=1.0, partner=partner), images, target)
    origin = mixed[:, 0].long()
    assert (mixed == mixed[:, :1]).all()
    assert torch.equal(moved.labels, origin)
    assert torch.equal(moved.confidence, origin / 10.0)
    assert torch.equal(moved.weight, origin / 20.0)
    assert torch.equal(moved.valid, origin % 2 == 0)


@pytest.mark.parametrize('count', [2, 3, 4, 5, 8])
def test_I6_R10_partner_is_never_the_own_image(count):
    random.seed(0)
    for _ in range(50):
        partners = CutMix().draw_partners(count)
        assert (partners != torch.arange(count)).all()
        assert sorted(partners.tolist()) == list(range(count))


def test_I6_every_image_really_receives_foreign_pixels():
    random.seed(0)
    images, target = batch(3)
    mixed, _ = mix(CutMix(prob=1.0), images, target)
    for index in range(3):
        share = (mixed[index, 0] != index).float().mean()
        assert 0.01 < share < 0.45


def test_R10_reversed_partner_of_an_odd_batch_leaves_the_middle_image_alone():
    random.seed(0)
    images, target = batch(3)
    mixed, _ = mix(CutMix(prob=1.0, partner='reverse'), images, target)
    assert torch.equal(mixed[1], images[1])
    assert (mixed[0] != images[0]).any() and (mixed[2] != images[2]).any()


def test_R10_single_image_is_not_mixed():
    images, target = batch(1)
    mixed, moved = mix(CutMix(prob=1.0), images, target)
    assert torch.equal(mixed, images) and torch.equal(moved.labels, target.labels)


def test_inputs_are_not_changed():
    random.seed(0)
    images, target = batch()
    before = images.clone(), target.labels.clone()
    mix(CutMix(prob=1.0), images, target)
    assert torch.equal(images, before[0]) and torch.equal(target.labels, before[1])


def test_box_statistics_follow_the_published_ranges():
    random.seed(0)
    height, width = 518, 518
    boxes = np.array([CutMix().draw_box(height, width) for _ in range(2000)])
    area = boxes[:, 2] * boxes[:, 3] / (height * width)
    aspect = boxes[:, 2] / boxes[:, 3]
    assert area.min() > 0.018 and area.max() <= 0.4
    assert aspect.min() > 0.28 and aspect.max() < 3.45
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    assert abs(area.mean() - 0.21) < 0.02, 'the area is drawn once and kept'
    assert abs(aspect.mean() - 1.53) < 0.1, 'shapes that seldom fit are rarer'


def test_probability_is_per_image():
    random.seed(0)
    cutmix = CutMix(prob=0.5)
    mixed = [
        bool(mask.any())
        for _ in range(200)
        for mask in cutmix.draw_mask(torch.tensor([1, 2, 0]), 32, 32)
    ]
    assert 0.42 < np.mean(mixed) < 0.58


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(prob=1.5), 'prob=1.5'),
        (dict(area=(0.5, 0.2)), 'area='),
        (dict(area=(0.1, 1.2)), 'area='),
        (dict(aspect=(0, 2)), 'aspect='),
        (dict(partner='self'), "'self'"),
    ],
)
def test_bad_settings_are_told(arguments, word):
    with pytest.raises(ValueError, match=word):
        CutMix(**arguments)


def test_box_that_never_fits_is_told_instead_of_looping():
    with pytest.raises(ValueError, match='widen the ranges'):
        CutMix(area=(1.0, 1.0), aspect=(4.0, 4.0)).draw_box(32, 32)
