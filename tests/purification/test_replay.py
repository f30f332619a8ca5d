# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evidence of tiles in the frames of a batch."""

import numpy as np
import pytest
import torch
from mmseg.registry import TRANSFORMS

from mmseg_semi_rs.purification.evidence import Evidence, Region, quantise
from mmseg_semi_rs.purification.replay import frame_of, region_map, replay_evidence
from mmseg_semi_rs.utils.randomness import seeded


def augment(labels, seed, prob=0.5, keep_ratio=True):
    """What the training makes of a tile's label map, and the geometry that it records."""
    height, width = labels.shape
    pipeline = TRANSFORMS.build(
        dict(
            type='TrackGeometry',
            transforms=[
                dict(
                    type='RandomResize',
                    scale=(width, height),
                    ratio_range=(0.5, 2.0),
                    keep_ratio=keep_ratio,
                ),
                dict(type='RandomCrop', crop_size=(61, 47)),
                dict(
                    type='RandomFlip',
                    prob=[prob / 2, prob / 4, prob / 4],
                    direction=['horizontal', 'vertical', 'diagonal'],
                ),
            ],
        )
    )
    image = np.repeat(labels[..., None], 3, axis=2).astype(np.uint8)
    results = dict(
        img=image,
        img_shape=image.shape[:2],
        ori_shape=image.shape[:2],
        gt_seg_map=labels.astype(np.uint8),
        seg_fields=['gt_seg_map'],
    )
    with seeded(seed):
        return pipeline(results)


def one_hot(labels, num_classes):
    return quantise(np.stack([labels == k for k in range(num_classes)]).astype(float))


@pytest.mark.parametrize('size', [(64, 64), (53, 90), (512, 512), (37, 41)])
def test_replay_of_a_label_map_equals_its_augmentation_bit_by_bit(size):
    rng = np.random.default_rng(0)
    for seed in range(25):
        labels = rng.integers(0, 5, size)
        results = augment(labels, seed, prob=0.9, keep_ratio=seed % 2 == 0)
        expected = results['gt_seg_map']
        evidence = Evidence(one_hot(labels, 5), np.ones(size, bool), size)
        frame = frame_of(results['geometry'], size)
        assert frame.size == expected.shape
        found = replay_evidence([evidence], [frame], 5, expected.shape, 'cpu')
        assert torch.equal(found.scores[0].argmax(0), torch.from_numpy(expected).long())
        assert found.scores.sum(1).eq(1).all() and found.seen.all()


@pytest.mark.parametrize('cells', [(64, 80), (16, 20)])
def test_evidence_follows_a_rotation(cells):
    """Blocks of a fine or a coarse grid lie where their label map lies, and nothing outside."""
    size = (64, 80)
    labels = np.kron(np.arange(4).reshape(2, 2), np.ones((32, 40))).astype(np.int64)
    steps = [
        dict(type='RandomResize', scale=(100, 100), ratio_range=(0.8, 1.5), keep_ratio=True),
        dict(type='RandomRotate', prob=1.0, degree=60),
        dict(type='RandomCrop', crop_size=(61, 47)),
        dict(type='RandomFlip', prob=0.5),
    ]
    for seed in range(6):
        with seeded(seed):
            results = TRANSFORMS.build(dict(type='TrackGeometry', transforms=steps))(
                dict(
                    img=np.repeat(labels[..., None], 3, axis=2).astype(np.uint8),
                    img_shape=size,
                    gt_seg_map=labels.astype(np.uint8),
                    seg_fields=['gt_seg_map'],
                )
            )
        expected = torch.from_numpy(results['gt_seg_map']).long()
        grid = labels[:: 64 // cells[0], :: 80 // cells[1]]
        evidence = Evidence(one_hot(grid, 4), np.ones(cells, bool), size)
        frame = frame_of(results['geometry'], size)
        found = replay_evidence([evidence], [frame], 4, tuple(expected.shape), 'cpu')
        inside = expected != 255
        assert torch.equal(found.seen[0], inside) and not found.scores[0][:, ~inside].any()
        agree = (found.scores[0].argmax(0) == expected)[inside].float().mean()
        assert agree == 1 if cells == size else agree > 0.9


def test_S5_each_image_gets_the_evidence_of_its_own_tile():
    first, second = (np.full((8, 8), k) for k in (1, 2))
    found = replay_evidence(
        [Evidence(one_hot(labels, 3), np.ones((8, 8), bool), (8, 8)) for labels in (first, second)],
        [frame_of((), (8, 8))] * 2,
        3,
        (8, 8),
        'cpu',
    )
    assert found.scores[0, 1].eq(1).all() and found.scores[1, 2].eq(1).all()


def test_S11_padding_and_absent_evidence_are_not_seen():
    evidence = Evidence(np.full((3, 8, 8), 255, np.uint8), np.ones((8, 8), bool), (8, 8))
    frame = frame_of((('crop', (2, 0, 5, 8)),), (8, 8))
    found = replay_evidence([evidence, None], [frame, frame], 3, (8, 10), 'cpu')
    inside = torch.zeros(8, 10, dtype=torch.bool)
    inside[:5, :8] = True
    assert torch.equal(found.seen[0], inside) and not found.seen[1].any()
    assert torch.equal(found.scores[0, 0], inside.float()) and not found.scores[1].any()


def test_what_is_not_seen_on_the_tile_is_not_seen_in_the_crop():
    seen = np.random.default_rng(0).random((16, 16)) < 0.5
    evidence = Evidence(np.zeros((2, 16, 16), np.uint8), seen, (16, 16))
    steps = (('crop', (3, 1, 9, 11)), ('flip', (0,)))
    found = replay_evidence([evidence], [frame_of(steps, (16, 16))], 2, (9, 11), 'cpu')
    assert np.array_equal(found.seen[0].numpy(), seen[3:12, 1:12][:, ::-1])


def test_a_coarse_grid_is_interpolated_between_the_centres_of_its_cells():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 256, (2, 4, 5), dtype=np.uint8)
    evidence = Evidence(scores, np.ones((4, 5), bool), (32, 40))
    found = replay_evidence([evidence], [frame_of((), (32, 40))], 2, (32, 40), 'cpu')
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None].float() / 255, size=(32, 40), mode='bilinear'
    )
    torch.testing.assert_close(found.scores, plain, atol=1e-6, rtol=0)
    # Flipped like the image.
    found = replay_evidence([evidence], [frame_of((('flip', (1,)),), (32, 40))], 2, (32, 40), 'cpu')
    torch.testing.assert_close(found.scores, plain.flip(2), atol=1e-6, rtol=0)


def test_the_region_with_the_highest_score_owns_a_pixel():
    regions = [
        Region(0, (0.0, 0.0, 6.0, 6.0), 0.9, 'a'),
        Region(1, (4.0, 4.0, 9.6, 20.0), 0.5, 'b'),
        Region(2, (-3.0, 7.4, 2.0, 8.4), 0.7, 'c'),
    ]
    painted = region_map(regions, (10, 10))
    for y in range(10):
        for x in range(10):
            cover = [
                (region.score, number + 1)
                for number, region in enumerate(regions)
                if region.box[0] <= x + 0.5 < region.box[2]
                and region.box[1] <= y + 0.5 < region.box[3]
            ]
            assert painted[y, x] == max(cover, default=(0, 0))[1]


def test_evidence_of_wrong_shapes_is_refused():
    with pytest.raises(ValueError, match='grid no finer than the tile'):
        Evidence(np.zeros((2, 9, 8), np.uint8), np.ones((9, 8), bool), (8, 8))
    with pytest.raises(ValueError, match='uint8'):
        Evidence(np.zeros((2, 8, 8)), np.ones((8, 8), bool), (8, 8))


def test_scores_that_are_no_numbers_are_no_evidence_of_absence():
    with pytest.raises(ValueError, match='no numbers'):
        quantise(np.array([0.5, np.nan]))
