# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Sources as stock mmseg configs have them: their pipelines, wrappers and lists."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_semi_rs.datasets import SemiDataset, SemiSampler
from mmseg_semi_rs.datasets.stock_pipelines import branch_pipeline
from mmseg_semi_rs.utils.randomness import Draw

# configs/_base_/datasets/potsdam.py of mmseg 1.2.2, smaller
STOCK = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(48, 48), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(24, 24), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]


@pytest.fixture
def source(tmp_path):
    init_default_scope('mmseg')
    rng = np.random.default_rng(0)
    for index in range(4):
        for folder in ('img', 'ann'):
            (tmp_path / folder).mkdir(exist_ok=True)
        shape = (40, 40)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(
            tmp_path / f'img/{index}.png'
        )
        Image.fromarray(rng.integers(1, 7, shape, np.uint8)).save(tmp_path / f'ann/{index}.png')

    def make(with_masks, pipeline=STOCK):
        prefix = dict(img_path='img', **(dict(seg_map_path='ann') if with_masks else {}))
        return dict(
            type='PotsdamDataset',
            data_root=str(tmp_path),
            data_prefix=prefix,
            pipeline=pipeline,
        )

    return make


def test_a_stock_pipeline_gives_views_of_the_same_pixels(source):
    dataset = SemiDataset(source(True), source(False))
    labelled, unlabelled = dataset[Draw(0, (0,))], dataset[Draw(4, (1,))]
    sup = labelled['data_samples']['sup']
    assert sup.gt_sem_seg.data.shape == (1, 24, 24) and labelled['inputs']['weak'] is None
    weak, strong = (unlabelled['data_samples'][name] for name in ('weak', 'strong'))
    assert weak.geometry == strong.geometry and 'gt_sem_seg' not in weak
    assert (unlabelled['inputs']['weak'] != unlabelled['inputs']['strong']).any()
    # The weak view is the tile itself: nothing but geometry.
    pixels = np.asarray(Image.open(weak.img_path))[..., ::-1]
    from mmseg_semi_rs.datasets.transforms import replay

    shown = replay(np.ascontiguousarray(pixels), weak.geometry, 'bilinear')
    np.testing.assert_array_equal(unlabelled['inputs']['weak'].permute(1, 2, 0).numpy(), shown)


def test_a_pipeline_of_ones_own_stays_as_it_is():
    for pipeline in ([dict(type='LoadImageFromFile')], branch_pipeline(STOCK, True)):
        assert branch_pipeline(pipeline, True) == pipeline


def test_without_photometry_the_strong_view_gets_one_and_labelled_images_get_none():
    plain = [step for step in STOCK if step['type'] != 'PhotoMetricDistortion']
    (strong, _) = branch_pipeline(plain, False)[-1]['strong']
    assert strong['type'] == 'Photometry' and len(branch_pipeline(plain, True)[-1]['sup']) == 1


def test_what_cannot_be_followed_is_named():
    crop = dict(type='CenterCrop', crop_size=(9, 9))
    with pytest.raises(ValueError, match='cannot follow CenterCrop'):
        SemiDataset(dict(type='PotsdamDataset', pipeline=[crop, STOCK[-1]]))


def own(labelled):
    return branch_pipeline(STOCK, labelled)


FLIP = dict(type='RandomFlip', prob=0.5)


@pytest.mark.parametrize('place', ['before', 'behind', 'sup', 'inside of a wrapper'])
def test_what_moves_pixels_beside_tracked_geometry_is_refused(source, place):
    pipeline = own(True)
    if place == 'sup':
        pipeline[-1]['sup'] = [FLIP, *pipeline[-1]['sup']]
    else:
        at = next(i for i, step in enumerate(pipeline) if step['type'] == 'TrackGeometry')
        pipeline.insert(at + (place == 'behind'), FLIP)
    labelled = source(True, pipeline)
    if place == 'inside of a wrapper':
        labelled = dict(type='RepeatDataset', times=2, dataset=labelled)
    with pytest.raises(ValueError, match='RandomFlip beside TrackGeometry') as told:
        SemiDataset(labelled, source(False))
    assert '\n' not in str(told.value)


def test_what_needs_masks_is_left_out_of_an_unlabelled_pipeline_of_ones_own(source):
    loads, *rest = own(False)
    rest[1]['transforms'][1]['cat_max_ratio'] = 0.75
    assert rest[1]['transforms'][1]['type'] == 'RandomCrop'
    unlabelled = source(False, [loads, dict(type='LoadAnnotations'), *rest])
    dataset = SemiDataset(source(True), unlabelled)
    assert dataset[Draw(4, (1,))]['inputs']['weak'].shape == (3, 24, 24)
    masks = source(True)['data_prefix']  # then they are wanted
    counted = SemiDataset(source(True), dict(unlabelled, data_prefix=masks))
    assert 'gt_sem_seg' in counted[Draw(4, (1,))]['data_samples']['weak']
    joined = dict(
        type='MultiImageMixDataset', dataset=source(False, STOCK[:2]), pipeline=own(False)[1:]
    )
    assert SemiDataset(source(True), joined)[Draw(4, (1,))]['inputs']['weak'] is not None


def test_masks_of_unlabelled_images_are_not_read_inside_of_a_wrapper_either(source, tmp_path):
    kept = [dict(type='KeepInMemory', transforms=STOCK[:2]), *STOCK[2:]]
    for index in (2, 3):
        (tmp_path / f'ann/{index}.png').unlink()
    for name, lines in (('labelled', '0\n1\n'), ('unlabelled', '2\n3\n')):
        (tmp_path / f'{name}.txt').write_text(lines)
    tiles = source(True, kept)
    unlabelled = dict(tiles, ann_file='unlabelled.txt')
    dataset = SemiDataset(dict(tiles, ann_file='labelled.txt'), unlabelled)
    assert 'gt_sem_seg' not in dataset[Draw(2, (1,))]['data_samples']['weak']
    assert 'gt_sem_seg' in dataset[Draw(0, (0,))]['data_samples']['sup']
    # Nor is a mask that is not there blamed for the mistake of a transform.
    dataset.unlabelled.pipeline.transforms.append(lambda results: results['mistake'])
    with pytest.raises(KeyError, match='mistake'):
        dataset[2]


def test_what_is_done_to_every_image_is_done_to_every_view(source):
    steps = [*STOCK[:5], dict(type='CLAHE'), STOCK[5], dict(type='GenerateEdge'), STOCK[-1]]
    dataset = SemiDataset(source(True, steps), source(False, steps))
    weak, strong = (dataset[Draw(4, (1,))]['inputs'][name] for name in ('weak', 'strong'))
    plain = SemiDataset(source(True), source(False))[Draw(4, (1,))]['inputs']['weak']
    assert weak.shape == plain.shape and not torch.equal(weak, plain)
    assert not torch.equal(weak, strong)
    assert 'gt_edge_map' in dataset[Draw(0, (0,))]['data_samples']['sup']


def test_wrappers_and_lists_are_sources(source):
    mosaic = dict(
        type='MultiImageMixDataset',
        dataset=source(True, STOCK[:2]),
        pipeline=[dict(type='RandomMosaic', prob=1.0, img_scale=(40, 40)), *STOCK[3:]],
    )
    repeated = dict(type='RepeatDataset', times=3, dataset=source(True))
    joined = dict(type='ConcatDataset', datasets=[source(False), source(False)])
    for labelled, unlabelled, sizes in (
        (mosaic, [source(False), source(False)], [4, 8]),
        (repeated, joined, [12, 8]),
        ([repeated, source(True)], None, [16, 0]),
    ):
        dataset = DATASETS.build(dict(type='SemiDataset', labelled=labelled, unlabelled=unlabelled))
        assert dataset.source_sizes == sizes and dataset.metainfo['classes'][0] == (
            'impervious_surface'
        )
        ratio = [1, 1] if unlabelled else [1, 0]
        samples = [dataset[draw] for draw in SemiSampler(dataset, 2, ratio, seed=0).batch(0)]
        assert samples[0]['inputs']['sup'].shape == (3, 24, 24)
        if unlabelled:
            assert samples[1]['inputs']['strong'].shape == (3, 24, 24)
        again = [dataset[draw] for draw in SemiSampler(dataset, 2, ratio, seed=0).batch(0)]
        assert torch.equal(samples[0]['inputs']['sup'], again[0]['inputs']['sup'])


def test_leftovers_of_a_stock_config_are_no_error_but_others_are(source):
    leftover = dict(data_root='data/potsdam', data_prefix=dict(img_path='x'), pipeline=STOCK)
    dataset = SemiDataset(source(True), source(False), **leftover)
    assert dataset.source_sizes == [4, 4]
    SemiSampler(dataset, 2, shuffle=True)
    with pytest.raises(ValueError, match='shuffle'):
        SemiSampler(dataset, 2, shuffle=False)
    with pytest.raises(TypeError, match='unlabeled'):
        SemiDataset(source(True), unlabeled=source(False))
