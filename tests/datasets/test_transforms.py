# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from mmseg.registry import TRANSFORMS

from mmseg_semi_rs.datasets.transforms import GeometryStep, homography, replay


def sample(height=40, width=56, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 6, (height, width)).astype(np.uint8)
    image = np.dstack([label * 40] * 3)
    return dict(img=image, gt_seg_map=label, seg_fields=['gt_seg_map'], img_shape=(height, width))


def geometry(crop=(24, 24), flip='horizontal'):
    return dict(
        type='TrackGeometry',
        transforms=[
            dict(type='RandomResize', scale=(56, 56), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=crop),
            dict(type='RandomFlip', prob=0.5, direction=flip),
        ],
    )


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
def test_replayed_label_map_equals_the_augmented_one_bit_by_bit(seed, flip):
    np.random.seed(seed)  # noqa: NPY002
    original = sample(seed=seed)
    label = original['gt_seg_map'].copy()
    result = TRANSFORMS.build(geometry(flip=flip))(original)
    np.testing.assert_array_equal(replay(label, result['geometry']), result['gt_seg_map'])


def test_replay_fails_the_comparison_when_a_step_is_left_out():
    np.random.seed(1)  # noqa: NPY002
    original = sample()
    label = original['gt_seg_map'].copy()
    result = TRANSFORMS.build(geometry())(original)
    shorter = replay(label, result['geometry'][:-1])
    assert shorter.shape != result['gt_seg_map'].shape or (shorter != result['gt_seg_map']).any()


@pytest.mark.parametrize('seed', range(6))
def test_homography_maps_tile_points_to_where_the_pixels_went(seed):
    np.random.seed(seed)  # noqa: NPY002
    height, width = 64, 64
    ramp = np.dstack([*np.meshgrid(np.arange(width), np.arange(height)), np.zeros((height, width))])
    results = dict(img=ramp.astype(np.float32), seg_fields=[], img_shape=(64, 64))
    result = TRANSFORMS.build(geometry(crop=(32, 32)))(results)
    matrix = result['homography']
    row, column = 15, 17
    there = result['img'][row, column, :2]  # tile coordinates (x, y) seen at this pixel
    mapped = matrix @ np.array([there[0] + 0.5, there[1] + 0.5, 1.0])
    assert np.abs(mapped[:2] - [column + 0.5, row + 0.5]).max() < 1.5


def test_homography_of_a_flip_is_exact():
    matrix = homography([GeometryStep('flip', (0,))], (10, 20))
    np.testing.assert_array_equal(matrix @ [3.0, 4.0, 1.0], [17.0, 4.0, 1.0])


def test_unfollowable_transform_is_refused():
    with pytest.raises(ValueError, match='RandomRotate'):
        TRANSFORMS.build(
            dict(type='TrackGeometry', transforms=[dict(type='RandomRotate', prob=1, degree=30)])
        )


def test_valid_mask_follows_the_geometry_and_marks_padding():
    results = TRANSFORMS.build(dict(type='AddValidMask'))(sample(20, 20))
    results = TRANSFORMS.build(dict(type='RandomRotate', prob=1.0, degree=(45, 45)))(results)
    packed = TRANSFORMS.build(dict(type='PackSemiInputs'))(results)
    valid = packed['data_samples'].valid.data
    assert valid.shape == (1, 20, 20) and valid.dtype == torch.bool
    assert not valid[0, 0, 0] and valid[0, 10, 10]


def test_R27_only_the_views_that_are_used_are_computed_and_they_share_geometry():
    pipeline = dict(
        type='MultiBranch',
        branch_field=['sup', 'weak', 'strong'],
        weak=[dict(type='PackSemiInputs')],
        strong=[dict(type='PhotoMetricDistortion'), dict(type='PackSemiInputs')],
    )
    results = TRANSFORMS.build(dict(type='AddValidMask'))(sample())
    results = TRANSFORMS.build(geometry())(results)
    expected = results['img'].copy()
    packed = TRANSFORMS.build(pipeline)(results)
    assert packed['inputs']['sup'] is None and packed['data_samples']['sup'] is None
    weak, strong = packed['inputs']['weak'], packed['inputs']['strong']
    np.testing.assert_array_equal(weak.permute(1, 2, 0).numpy(), expected)
    assert weak.shape == strong.shape and (weak != strong).any()
    for branch in ('weak', 'strong'):
        assert packed['data_samples'][branch].geometry == results['geometry']


def test_multi_branch_refuses_a_pipeline_for_an_unknown_branch():
    with pytest.raises(ValueError, match='strnog'):
        TRANSFORMS.build(dict(type='MultiBranch', branch_field=['sup', 'strong'], strnog=[]))
