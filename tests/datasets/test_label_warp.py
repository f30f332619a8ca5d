# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Masks whose boundaries are moved, and nothing else."""

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from mmseg_semi_rs.datasets.stock_pipelines import branch_pipeline
from mmseg_semi_rs.utils.randomness import seeded
from tests._support.tiny_training import ROOT

SIZE = (40, 48)


def warp(labels, seed=0, **options):
    image = np.zeros((*labels.shape, 3), np.uint8)
    results = dict(img=image, gt_seg_map=labels.copy(), valid_map=labels * 0)
    with seeded(seed):
        found = TRANSFORMS.build(dict(type='LabelWarp', **options))(results)
    assert found['img'] is image and not found['valid_map'].any()
    return found['gt_seg_map']


def halves():
    return np.repeat([[0, 1]], SIZE[1] // 2, axis=1).repeat(SIZE[0], axis=0).astype(np.uint8)


def test_each_pixel_takes_the_label_of_the_place_that_smoothed_noise_names():
    strength, sigma = 30.0, 3.0
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 251
    found = warp(labels, seed=4, prob=1.0, strengths=[strength], smoothness=[sigma])
    with seeded(4):
        np.random.random(), np.random.choice([strength]), np.random.choice([sigma])  # noqa: NPY002
        noise = np.random.uniform(-1, 1, (*SIZE, 2))  # noqa: NPY002
    taps = np.arange(-12, 13)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(
            noise, [(12, 12) if axis == which else (0, 0) for which in range(3)], 'reflect'
        )
        noise = np.apply_along_axis(np.convolve, axis, padded, kernel, 'valid')
    agree = 0
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            right, down = strength * noise[row, column]
            y = min(max(round(row + down), 0), SIZE[0] - 1)
            x = min(max(round(column + right), 0), SIZE[1] - 1)
            agree += found[row, column] == labels[y, x]
    assert agree > 0.995 * labels.size  # rounding, in float32
    assert (found != labels).mean() > 0.5


def test_only_boundaries_move_and_as_far_as_the_strength_says():
    labels, boundary = halves(), SIZE[1] // 2
    moved = [warp(labels, seed, prob=1.0, strengths=[50], smoothness=[3]) for seed in range(20)]
    columns = np.nonzero(np.stack(moved) != labels)[2]
    assert len(columns) and np.abs(columns + 0.5 - boundary).max() < 20
    still = [warp(labels, seed, prob=1.0, strengths=[1], smoothness=[10]) for seed in range(5)]
    np.testing.assert_array_equal(np.stack(still), np.stack([labels] * 5))


def test_half_of_the_masks_are_warped_and_none_where_it_is_switched_off():
    labels = halves()
    options = dict(strengths=[100], smoothness=[3])
    changed = [not np.array_equal(warp(labels, seed, **options), labels) for seed in range(60)]
    assert 15 < sum(changed) < 45
    assert all(np.array_equal(warp(labels, seed, prob=0.0), labels) for seed in range(20))


def test_padding_stays_padding_and_sparse_labels_stay_where_they_are():
    labels = halves()
    labels[:, :10] = 255
    found = warp(labels, prob=1.0, strengths=[100], smoothness=[3])
    np.testing.assert_array_equal(found == 255, labels == 255)
    clicks = np.full(SIZE, 255, np.uint8)
    clicks[::9, ::9] = halves()[::9, ::9]
    np.testing.assert_array_equal(warp(clicks, prob=1.0, strengths=[100]), clicks)


@pytest.mark.parametrize(
    'options', [dict(prob=1.5), dict(strengths=[]), dict(strengths=[-1]), dict(smoothness=[0])]
)
def test_values_out_of_range_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=f'LabelWarp has .*{name}='):
        TRANSFORMS.build(dict(type='LabelWarp', **options))


def test_a_stock_pipeline_warps_masks_of_labelled_images_alone():
    stock = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='LabelWarp'),
        dict(type='GenerateEdge'),
        dict(type='PackSegInputs'),
    ]
    assert [step['type'] for step in branch_pipeline(stock, True)[-1]['sup']] == [
        'LabelWarp',
        'GenerateEdge',  # of the labels as they are then
        'PackSemiInputs',
    ]
    strong = branch_pipeline(stock, False)[-1]['strong']
    assert [step['type'] for step in strong] == ['Photometry', 'PackSemiInputs']


@pytest.mark.parametrize(
    'name',
    ['baselines/fixmatch_dinov2_potsdam_1-4', 'co2s/clip_dinov3_potsdam_1-4'],
)
def test_shipped_configs_have_the_switch_and_it_is_off(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    views = cfg.train_dataloader.dataset.labelled.pipeline[-1]
    assert views['sup'][0] == dict(type='LabelWarp', prob=0.0)
