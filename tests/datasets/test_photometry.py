# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The named strengths of photometry, and loading that is done once."""

import numpy as np
import pytest
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_semi_rs.datasets.tiles import load_tile
from mmseg_semi_rs.datasets.transforms import KeepInMemory, Photometry
from mmseg_semi_rs.utils.randomness import seeded
from tests._support.tiny_training import config, train, write_training

#: As the configs had it step by step: section 4 of the method.
PUBLISHED = [
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
        magnitude_std='inf',
        prob=0.5,
    ),
]


def view(transform, seed):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    results = dict(
        img=image, img_shape=(24, 32), seg_fields=['gt_seg_map'], gt_seg_map=image[..., 0]
    )
    with seeded(seed):
        return image.copy(), transform(results)


def test_published_is_bit_by_bit_the_list_that_it_replaced():
    named, listed = TRANSFORMS.build(dict(type='Photometry')), Compose(PUBLISHED)
    again = Photometry('published')  # building leaves the table of strengths as it is
    changed = 0
    for seed in range(40):
        image, found = view(named, seed)
        expected = view(listed, seed)[1]['img']
        np.testing.assert_array_equal(found['img'], expected)
        np.testing.assert_array_equal(view(again, seed)[1]['img'], expected)
        changed += not np.array_equal(image, expected)
    assert 30 <= changed < 40


def test_geometric_changes_nothing_and_mild_less_than_published():
    differences = {}
    for strength in ('published', 'mild', 'geometric'):
        steps = Photometry(strength)
        assert repr(steps) == f"Photometry(strength='{strength}')"
        seen = []
        for seed in range(60):
            image, found = view(steps, seed)
            assert found['seg_fields'] == ['gt_seg_map']
            np.testing.assert_array_equal(found['gt_seg_map'], image[..., 0])
            grey = (np.ptp(found['img'], axis=2) == 0).all()
            assert strength == 'published' or not grey, 'hue tells vegetation from bare land'
            seen.append(np.abs(found['img'].astype(float) - image).mean())
        differences[strength] = np.mean(seen)
    assert differences['geometric'] == 0 < differences['mild'] < 0.6 * differences['published']


def test_a_strength_without_a_name_is_told():
    with pytest.raises(ValueError, match=r"strength='strong': choose one of \['geometric', 'mild'"):
        Photometry('strong')


# ------------------------------------------------------------------------------- KeepInMemory


@pytest.fixture
def tiny(tmp_path):
    return write_training(tmp_path / 'data')


@pytest.fixture
def loaded(monkeypatch):
    """Files, in the order in which they were decoded."""
    files = []
    original = LoadImageFromFile.transform

    def spy(self, results):
        files.append(results['img_path'])
        return original(self, results)

    monkeypatch.setattr(LoadImageFromFile, 'transform', spy)
    return files


def keep(cfg):
    """Let both pipelines of a config begin with KeepInMemory."""
    for part, count in (('labelled', 2), ('unlabelled', 1)):
        steps = cfg.train_dataloader.dataset[part].pipeline
        kept = dict(type='KeepInMemory', transforms=steps[:count])
        cfg.train_dataloader.dataset[part].pipeline = [kept, *steps[count:]]
    return cfg


def tile(tmp_path, index):
    return dict(
        img_path=str(tmp_path / 'data' / 'img' / f'tile_{index}.png'),
        seg_map_path=str(tmp_path / 'data' / 'ann' / f'tile_{index}.png'),
        seg_fields=[],
        reduce_zero_label=False,
        label_map=None,
    )


LOAD = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]


def test_a_file_is_loaded_once_and_what_comes_out_may_be_written_into(tmp_path, tiny, loaded):
    keeping, plain = KeepInMemory(LOAD), Compose(LOAD)
    expected = [plain(tile(tmp_path, index)) for index in range(3)]
    loaded.clear()
    for _ in range(3):
        for index, right in enumerate(expected):
            found = keeping(tile(tmp_path, index))
            assert found.keys() == right.keys()
            for key, value in right.items():
                np.testing.assert_array_equal(found[key], value)
            assert found['img'].flags.writeable
            found['img'][:], found['gt_seg_map'][:] = 0, 7
            found['seg_fields'].append('valid_map')
            found['valid_map'] = 1
    assert len(loaded) == 3


def test_the_same_image_with_and_without_its_labels_are_two(tmp_path, tiny):
    keeping = KeepInMemory(LOAD[:1])
    with_path = keeping(tile(tmp_path, 0))
    without = keeping({**tile(tmp_path, 0), 'seg_map_path': None})
    assert with_path['seg_map_path'] and without['seg_map_path'] is None


def test_a_sample_that_is_no_file_is_refused():
    keeping = KeepInMemory([dict(type='mmseg.LoadImageFromNDArray')])
    with pytest.raises(ValueError, match='img_path, which this one lacks') as told:
        keeping(dict(img=np.zeros((8, 8, 3), np.uint8)))
    assert '\n' not in str(told.value)


def test_training_is_the_same_and_reads_each_file_once(tmp_path, tiny, loaded):
    _, expected = train(config(tiny, tmp_path / 'plain', iters=4))
    plain = len(loaded)
    loaded.clear()
    _, losses = train(keep(config(tiny, tmp_path / 'kept', iters=4)))
    assert list(losses) == list(expected)
    # validation at the end reads its three images anew
    assert len(loaded) == 2 + 2 + 3 < plain


def test_tools_that_draw_tiles_find_the_loaders_inside(tmp_path, tiny):
    init_default_scope('mmseg')
    cfg = config(tiny, tmp_path / 'run')
    plain = DATASETS.build(cfg.train_dataloader.dataset)
    kept = DATASETS.build(keep(cfg).train_dataloader.dataset)
    for index in range(len(plain)):
        one, two = load_tile(plain, index), load_tile(kept, index)
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.labels is None) is (index >= 2)
        np.testing.assert_array_equal(one.labels, two.labels)
