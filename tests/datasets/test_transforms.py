# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import inspect
import random

import mmcv.transforms
import mmseg.datasets.transforms
import numpy as np
import pytest
import torch
from mmseg.datasets.transforms import Albu
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_semi_rs.datasets.transforms import GeometryStep, homography, replay
from mmseg_semi_rs.datasets.transforms.geometry import moving_parts


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


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize(
    'rotation',
    [
        dict(type='RandomRotate', prob=0.8, degree=40),
        dict(type='RandomRotate', prob=0.8, degree=40, auto_bound=True, seg_pad_val=0),
        dict(type='RandomRotFlip', rotate_prob=0.5, flip_prob=0.9),
        dict(type='Pad', size=(90, 70), pad_val=dict(img=0, seg=3)),
        dict(type='Pad', pad_to_square=True),
        dict(type='ResizeShortestEdge', scale=30, max_size=99),
        dict(type='ResizeToMultiple', size_divisor=16),
    ],
)
def test_rotations_and_padding_between_other_transforms_are_replayed(rotation, seed):
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    original = TRANSFORMS.build(dict(type='AddValidMask'))(sample(seed=seed))
    label = original['gt_seg_map'].copy()
    steps = geometry()['transforms']
    track = dict(type='TrackGeometry', transforms=[steps[0], rotation, *steps[1:]])
    result = TRANSFORMS.build(track)(original)
    np.testing.assert_array_equal(replay(label, result['geometry']), result['gt_seg_map'])
    # No id is invented, and what comes from outside of the tile is neither valid nor a class.
    padded = result['valid_map'] == 255
    assert set(np.unique(result['gt_seg_map'][~padded])) <= set(range(6))
    assert (result['gt_seg_map'][padded] == 255).all()
    # Blocks of the image show what the map says: id times 40, away from interpolated edges.
    assert result['img'].shape[:2] == result['gt_seg_map'].shape == padded.shape


def test_rotation_moves_the_map_as_it_moves_the_image():
    label = np.kron(np.arange(4).reshape(2, 2), np.ones((32, 32))).astype(np.uint8)
    image = np.dstack([label * 40] * 3)
    sample = dict(img=image, gt_seg_map=label, seg_fields=['gt_seg_map'], img_shape=(64, 64))
    rotate = dict(type='RandomRotate', prob=1.0, degree=(30, 30))
    result = TRANSFORMS.build(dict(type='TrackGeometry', transforms=[rotate]))(sample)
    inside = result['gt_seg_map'] != 255
    agree = result['img'][..., 0] == result['gt_seg_map'] * 40
    assert agree[inside].mean() > 0.9 and 0.7 < inside.mean() < 1
    before, after = np.array([40.0, 20.0, 1.0]), np.deg2rad(30)  # clockwise, as mmcv turns
    x, y = before[0] - 32, before[1] - 32
    turned = [
        np.cos(after) * x - np.sin(after) * y + 32,
        np.sin(after) * x + np.cos(after) * y + 32,
    ]
    assert np.abs((result['homography'] @ before)[:2] - turned).max() < 1


def test_unfollowable_transform_is_refused():
    with pytest.raises(ValueError, match='RandomCutOut'):
        TRANSFORMS.build(
            dict(
                type='TrackGeometry',
                transforms=[dict(type='RandomCutOut', prob=1, n_holes=1, cutout_shape=(4, 4))],
            )
        )


@pytest.mark.parametrize(
    ('transform', 'name'),
    [
        (dict(type='RandomRotFlip'), 'RandomRotFlip'),
        (dict(type='Pad', size=(64, 64)), 'Pad'),
        (
            dict(type='RandomApply', transforms=[dict(type='RandomFlip', prob=1.0)], prob=0.5),
            'RandomFlip',
        ),
    ],
)
def test_views_that_would_not_show_the_same_are_refused(transform, name):
    branches = ['sup', 'weak', 'strong']
    with pytest.raises(ValueError, match=f"{name} in the branch 'strong'"):
        TRANSFORMS.build(dict(type='MultiBranch', branch_field=branches, strong=[transform]))
    TRANSFORMS.build(dict(type='MultiBranch', branch_field=branches, sup=[transform]))


# Whoever adds a name here has looked: it leaves every pixel where it is.
STILL = {
    *('BaseTransform', 'Compose', 'ImageToTensor', 'KeyMapper', 'Normalize', 'RandomApply'),
    *('RandomChoice', 'RandomGrayscale', 'ToTensor', 'TransformBroadcaster', 'to_tensor'),
    *('AdjustGamma', 'Albu', 'BioMedicalGaussianBlur', 'BioMedicalGaussianNoise', 'CLAHE'),
    *('BioMedicalRandomGamma', 'ConcatCDInput', 'GenerateEdge', 'PackSegInputs', 'Rerange'),
    *('PhotoMetricDistortion', 'RGB2Gray', 'RandomCutOut', 'TRANSFORMS'),
}


@pytest.mark.parametrize('library', [mmcv.transforms, mmseg.datasets.transforms])
def test_of_every_transform_it_is_known_whether_it_moves_pixels(library):
    for name in library.__all__:
        kind = getattr(library, name)
        concrete = isinstance(kind, type) and not inspect.isabstract(kind)
        moving = concrete and bool(moving_parts(kind.__new__(kind)))
        assert moving is not (name in STILL or name.startswith('Load')), name


class DualTransform:
    """As albumentations calls what it does to images and masks alike."""


ALBUMENTATIONS = {
    name: type(name, (DualTransform,), {})
    for name in ('ShiftScaleRotate', 'CoarseDropout', 'GridDropout', 'NoOp')
}


class OneOf:
    def __init__(self, *names):
        self.transforms = [ALBUMENTATIONS.get(name, type(name, (), {}))() for name in names]


def albu(*names):
    found = Albu.__new__(Albu)
    found.aug, found.transforms = OneOf(*names), [dict(type=name) for name in names]
    return found


def test_pixels_are_moved_inside_of_wrappers_and_by_other_libraries():
    flip = dict(type='RandomFlip', prob=0.5)
    for cfg, expected in (
        (dict(type='RandomChoice', transforms=[[dict(type='CLAHE')], [flip]]), ['RandomFlip']),
        (dict(type='TestTimeAug', transforms=[[flip]]), ['TestTimeAug']),
        (dict(type='AntialiasedResize', scale=(8, 8)), ['AntialiasedResize']),
        (dict(type='mmpretrain.RandomResizedCrop', scale=8), ['RandomResizedCrop']),
        (dict(type='mmpretrain.torchvision/RandomAffine', degrees=9), ['RandomAffine']),
        (dict(type='mmpretrain.torchvision/ColorJitter'), []),
        (dict(type='mmpretrain.Rotate', angle=9), ['Rotate']),
        (dict(type='mmpretrain.Sharpness', magnitude=0.1), []),
    ):
        assert moving_parts(TRANSFORMS.build(cfg)) == expected, cfg
    found = moving_parts(albu('RandomGamma', 'CoarseDropout', 'ShiftScaleRotate', 'NoOp'))
    assert found == ['ShiftScaleRotate'] and moving_parts(albu('GridDropout')) == []


def test_valid_mask_follows_the_geometry_and_marks_padding():
    results = TRANSFORMS.build(dict(type='AddValidMask'))(sample(20, 20))
    results = TRANSFORMS.build(dict(type='RandomRotate', prob=1.0, degree=(45, 45)))(results)
    packed = TRANSFORMS.build(dict(type='PackSemiInputs'))(results)
    valid = packed['data_samples'].valid.data
    assert valid.shape == (1, 20, 20) and valid.dtype == torch.bool
    assert not valid[0, 0, 0] and valid[0, 10, 10]


def test_marks_of_a_file_are_not_forgotten_after_a_mosaic_that_begins_with_it(tmp_path):
    picture = np.full((20, 20, 4), 255, np.uint8)
    picture[:5, :, 3] = 0
    Image.fromarray(picture).save(tmp_path / 'tile.png')
    add = TRANSFORMS.build(dict(type='AddValidMask'))
    for side, marked in ((20, 100), (40, 0), (20, 100)):  # 40: a mosaic of four tiles
        results = dict(sample(side, side), img_path=str(tmp_path / 'tile.png'))
        assert (add(results)['valid_map'] == 255).sum() == marked


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
