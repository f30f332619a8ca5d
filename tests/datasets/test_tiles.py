# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Stored tiles: what training sees before augmentation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import RepeatDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmseg_semi_rs.datasets import SemiDataset
from mmseg_semi_rs.datasets.tiles import load_image, load_tile, tile_paths
from mmseg_semi_rs.utils.sampling import evenly

LOADING = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
TRACKED = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=(20, 20), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(8, 8)),
        dict(type='RandomFlip', prob=1.0),
    ],
)
BRANCHES = dict(type='MultiBranch', branch_field=['sup'], sup=[dict(type='PackSemiInputs')])


@pytest.fixture
def files(tmp_path):
    """Five tiles of 12 x 20 pixels, red to the left, and their masks; RGB and ids by name."""
    rng = np.random.default_rng(0)
    pixels, ids = {}, {}
    for kind in ('img', 'ann'):
        (tmp_path / kind).mkdir()
    for name in 'abcde':
        pixels[name] = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        pixels[name][:, :5] = 200, 30, 10
        ids[name] = rng.integers(0, 4, (12, 20), dtype=np.uint8)
        Image.fromarray(pixels[name]).save(tmp_path / 'img' / f'{name}.png')
        Image.fromarray(ids[name]).save(tmp_path / 'ann' / f'{name}.png')
    return tmp_path, pixels, ids


def dataset(root: Path, names: str, pipeline: list, labels: bool = True, **settings) -> dict:
    (root / f'{names}.txt').write_text('\n'.join(names))
    prefix = dict(img_path='img', seg_map_path='ann') if labels else dict(img_path='img')
    metainfo = dict(classes=('x', 'y', 'z', 'w'), palette=[[i] * 3 for i in range(4)])
    return {
        **dict(type='BaseSegDataset', data_root=str(root), ann_file=f'{names}.txt'),
        **dict(img_suffix='.png', data_prefix=prefix, metainfo=metainfo, pipeline=pipeline),
        **settings,
    }


def build(*args, **settings) -> BaseSegDataset:
    cfg = dataset(*args, **settings)
    cfg.pop('type')
    return BaseSegDataset(**cfg)


def test_labelled_and_unlabelled_tiles_are_not_augmented(files):
    root, pixels, ids = files
    photometric = [dict(type='AddValidMask'), TRACKED, BRANCHES]
    semi = SemiDataset(
        dataset(root, 'ab', [*LOADING, *photometric]),
        dataset(root, 'cde', [LOADING[0], *photometric], labels=False),
    )
    assert [Path(path).stem for path in tile_paths(semi)] == list('abcde')
    for index, name in enumerate('abcde'):
        for tile in (
            load_tile(semi, index),
            load_tile(semi.labelled, index) if index < 2 else load_tile(semi.unlabelled, index - 2),
        ):
            assert tile.path == str(root / 'img' / f'{name}.png')
            assert tile.image.dtype == np.uint8 and tile.image.flags.c_contiguous
            assert np.array_equal(tile.image, pixels[name])  # RGB
            if index < 2:
                assert tile.labels.dtype == np.uint8 and np.array_equal(tile.labels, ids[name])
            else:
                assert tile.labels is None
        assert np.array_equal(load_image(semi, tile.path), pixels[name])
        assert np.array_equal(load_image(semi.unlabelled, tile.path), pixels[name])
    assert load_tile(semi, 0, with_labels=False).labels is None
    repeated = RepeatDataset(semi.labelled, 3)
    assert np.array_equal(load_tile(repeated, 3).image, pixels['b'])


def test_labels_of_unlabelled_tiles_are_not_opened(files):
    root, pixels, _ = files
    data = build(root, 'cd', [LOADING[0], TRACKED, BRANCHES])
    for path in (root / 'ann').iterdir():
        path.unlink()
    assert np.array_equal(load_tile(data, 0).image, pixels['c'])


def test_label_rules_of_the_dataset(files, monkeypatch):
    root, _, ids = files
    reduced = load_tile(build(root, 'a', LOADING, reduce_zero_label=True), 0).labels
    assert np.array_equal(reduced, np.where(ids['a'] == 0, 255, ids['a'] - 1))
    fewer = dict(classes=('z', 'x'), palette=[[0] * 3] * 2)
    monkeypatch.setattr(BaseSegDataset, 'METAINFO', dict(classes=('x', 'y', 'z', 'w')))
    mapped = load_tile(build(root, 'a', LOADING, metainfo=fewer), 0).labels
    assert np.array_equal(mapped, np.array([1, 255, 0, 255])[ids['a']])


def test_labels_that_are_loaded_after_a_resize(files):
    root, _, ids = files
    resize = dict(type='Resize', scale=(40, 40), keep_ratio=False)
    data = build(root, 'a', [LOADING[0], resize, LOADING[1], dict(type='PackSegInputs')])
    assert np.array_equal(load_tile(data, 0).labels, ids['a'])


@pytest.mark.parametrize(
    ('settings', 'picture', 'expected'),
    [
        ({}, np.full((4, 6), 70, np.uint8), 70),
        (dict(color_type='unchanged'), np.full((4, 6), 70, np.uint8), 70),
        ({}, np.full((4, 6, 3), 0x46FF, np.uint16), 70),
        (dict(color_type='unchanged'), np.full((4, 6, 3), 0x46FF, np.uint16), 70),
        (dict(color_type='unchanged'), np.full((4, 6), 0x46FF, np.uint16), 70),
        (dict(color_type='unchanged'), np.full((4, 6, 4), 70, np.uint8), 70),
        (dict(to_float32=True), np.full((4, 6, 3), 70, np.uint8), 70),
    ],
    ids=['grey', 'grey_band', '16_bits', 'raw_16_bits', 'grey_16_bits', 'alpha', 'float'],
)
def test_other_pictures_become_rgb(files, settings, picture, expected):
    root, *_ = files
    cv2.imwrite(str(root / 'img' / 'a.png'), picture)
    data = build(root, 'a', [dict(type='LoadImageFromFile', **settings)])
    tile = load_tile(data, 0)
    assert tile.image.shape == (4, 6, 3) and tile.image.dtype == np.uint8
    assert (tile.image == expected).all()


def test_bad_tiles_are_named(files):
    root, *_ = files
    data = build(root, 'abcde', LOADING)
    (root / 'img' / 'a.png').unlink()
    (root / 'img' / 'b.png').write_text('<html>404</html>')
    (root / 'ann' / 'c.png').unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(root / 'ann' / 'd.png')
    (root / 'ann' / 'e.png').write_bytes(b'')
    for index, kind, words in (
        (0, FileNotFoundError, r'img/a\.png .*does not exist'),
        (1, ValueError, r'img/b\.png .*cannot be read'),
        (2, FileNotFoundError, r'ann/c\.png .*does not exist'),
        (3, ValueError, r'ann/d\.png of shape \(3, 3\)'),
        (4, ValueError, r'ann/e\.png .*cannot be read'),
    ):
        with pytest.raises(kind, match=words) as error:
            load_tile(data, index)
        assert '\n' not in str(error.value)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_image(data, str(root / 'img' / 'a.png'))
    with pytest.raises(ValueError, match=r'pipeline .* let it begin with LoadImageFromFile'):
        load_tile(build(root, 'c', [dict(type='RandomFlip', prob=0.5)]), 0)


@pytest.mark.parametrize(
    'picture',
    [np.full((4, 6, 3), 300.0), np.zeros((4, 6, 2), np.uint8), np.full((4, 6, 3), np.nan)],
    ids=['beyond_8_bits', 'two_bands', 'nan'],
)
def test_pictures_that_are_none(files, picture, monkeypatch):
    root, *_ = files
    data = build(root, 'a', LOADING[:1])
    (loader,) = data.pipeline.transforms
    monkeypatch.setattr(loader, 'transform', lambda results: {**results, 'img': picture})
    with pytest.raises(ValueError, match=r'a\.png is loaded '):
        load_tile(data, 0)


def test_evenly():
    assert evenly(10, 2) == [2, 7] and evenly(3, 10) == [0, 1, 2] and evenly(0, 4) == []
    for count in range(1, 40):
        for wanted in range(1, 40):
            chosen = evenly(count, wanted)
            assert chosen == sorted(set(chosen)) and len(chosen) == min(count, wanted)
            assert chosen[0] >= 0 and chosen[-1] < count
