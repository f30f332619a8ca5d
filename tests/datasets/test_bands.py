# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles of any number of bands from the file to the batch."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS, TRANSFORMS

from mmseg_semi_rs.datasets import FolderDataset
from mmseg_semi_rs.datasets.tiles import band_reading, load_image, load_tile
from mmseg_semi_rs.datasets.transforms import BandPhotometry, Photometry, TrackGeometry
from mmseg_semi_rs.utils.randomness import seeded
from tests._support.bands import RASTER, RGB, stack, write_bands

pytest.importorskip('rasterio')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def levels(seed=0, channels=5, side=48):
    """Smooth bands, (side, side, channels) float32."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (6, 6, channels))
    return np.repeat(np.repeat(coarse, side // 6, 0), side // 6, 1).astype(np.float32)


def sample(image):
    return dict(img=image, img_shape=image.shape[:2], seg_fields=[])


GEOMETRY = {
    'resize': [dict(type='RandomResize', scale=(48, 48), ratio_range=(0.5, 1.5), keep_ratio=True)],
    'shrink': [
        dict(
            type='RandomResize',
            scale=(48, 48),
            ratio_range=(0.5, 0.6),
            keep_ratio=True,
            resize_type='AntialiasedResize',
        )
    ],
    'crop': [dict(type='RandomCrop', crop_size=(20, 30))],
    'flip': [dict(type='RandomFlip', prob=1.0, direction=['horizontal', 'vertical', 'diagonal'])],
    'rotate': [dict(type='RandomRotate', prob=1.0, degree=30)],
    'rotflip': [dict(type='RandomRotFlip', rotate_prob=0.5, flip_prob=1.0)],
}


@pytest.mark.parametrize('name', GEOMETRY)
def test_geometry_moves_every_band_alike(name):
    track = TrackGeometry(GEOMETRY[name])
    image = np.repeat(levels(channels=1), 7, axis=2)
    image += np.arange(7, dtype=np.float32)
    with seeded(3):
        moved = track(sample(image))['img']
    assert moved.dtype == np.float32
    assert moved.shape[2] == 7
    with seeded(3):
        alone = track(sample(np.ascontiguousarray(image[..., :3])))['img']
    # OpenCV rotates three channels by weights of 1/32, more of them by exact ones
    inside = np.abs(moved[..., :3] - alone) < 8
    assert inside.mean() > (0.97 if name.startswith('rot') else 0.999)
    np.testing.assert_allclose(moved[4:-4, 4:-4, 6] - moved[4:-4, 4:-4, 0], 6, atol=8)


def test_shrinking_leaves_no_aliases_in_float_bands():
    checked = (np.indices((48, 48)).sum(0) % 2 * 255.0).astype(np.float32)
    image = np.stack([checked] * 5, axis=2)
    small = TRANSFORMS.build(dict(type='AntialiasedResize', scale=(21, 21)))(sample(image))['img']
    assert small.shape == (21, 21, 5)
    assert small[2:-2, 2:-2].std() < 12  # OpenCV's bilinear: over 40
    assert TRANSFORMS.build(dict(type='Resize', scale=(21, 21)))(sample(image))['img'].std() > 40


def test_photometry_changes_colours_of_rgb_and_gains_of_the_others():
    change = BandPhotometry('published', rgb=RGB)
    before = levels()
    colours, others, changed = [], [], 0
    for seed in range(30):
        kept = before.copy()
        with seeded(seed):
            after = change(dict(img=before))['img']
        np.testing.assert_array_equal(before, kept)  # other views share the pixels
        assert after.dtype == np.float32
        for channel, found in ((0, colours), (3, others), (4, others)):
            # how far a band is from a straight line of itself: hue and saturation mix bands
            fit = np.polyfit(before[..., channel].ravel(), after[..., channel].ravel(), 1)
            rest = after[..., channel] - np.polyval(fit, before[..., channel])
            found.append(float(np.median(np.abs(rest))))
        changed += not np.array_equal(before[..., 3], after[..., 3])
    assert changed > 20
    assert np.median(colours) > 10
    assert np.median(others) < 5


def test_no_rgb_means_no_colours_and_a_band_may_drop_out():
    change = BandPhotometry('mild')
    assert not change.colours.transforms
    lost = 0
    for seed in range(60):
        with seeded(seed):
            after = change(dict(img=levels(channels=2)))['img']
        lost += int((after.std((0, 1)) < 1e-3).sum())
    assert 0 < lost < 20


@pytest.mark.parametrize('strength', ['published', 'mild', 'geometric'])
def test_each_strength_of_rgb_has_one_of_bands(strength):
    change, same = BandPhotometry(strength, rgb=RGB), Photometry(strength)
    with seeded(0):
        after = change(dict(img=levels()))['img']
    assert np.array_equal(after, levels()) == (strength == 'geometric')
    colours = [step for step in same.steps.transforms if 'Blur' not in type(step).__name__]
    assert repr(change.colours.transforms) == repr(colours)


def test_wrong_photometry_is_refused():
    with pytest.raises(ValueError, match="strength='strong'"):
        BandPhotometry('strong')
    with pytest.raises(ValueError, match='positions of red, green and blue'):
        BandPhotometry('mild', rgb=[0, 0, 1])
    with pytest.raises(ValueError, match=r'a\.tif has 2 channels'):
        BandPhotometry('mild', rgb=RGB)(dict(img=levels(channels=2), img_path='a.tif'))


@pytest.fixture
def folder(tmp_path):
    bands = stack()
    bands[:, :4] = -9999
    write_bands(tmp_path / 'a.tif', bands, nodata=-9999)
    pipeline = [
        dict(type='LoadBands', **RASTER),
        dict(type='AddValidMask'),
        dict(type='PackSemiInputs'),
    ]
    return FolderDataset(
        ['land', 'water'], data_root='', data_prefix=dict(img_path=str(tmp_path)), pipeline=pipeline
    )


def test_pixels_without_data_are_no_valid_ones(folder):
    packed = folder[0]
    assert packed['inputs'].shape == (5, 40, 30)
    assert packed['inputs'].dtype == torch.float32
    valid = packed['data_samples'].valid.data[0]
    assert not valid[:4].any()
    assert valid[4:].all()


def test_who_looks_at_tiles_is_shown_rgb(folder):
    image = load_tile(folder, 0).image
    assert (image.shape, image.dtype) == ((40, 30, 3), np.uint8)
    pixels = folder[0]['inputs'].numpy()
    for channel, band in enumerate(RGB):
        np.testing.assert_array_equal(image[..., channel], np.rint(pixels[band]).clip(0, 255))
    path = folder.get_data_info(0)['img_path']
    infrared = load_image(folder, path, bands=[3, 2, 1])
    np.testing.assert_array_equal(infrared[..., 0], np.rint(pixels[3]).clip(0, 255))
    with pytest.raises(ValueError, match=r'has 5 bands, of which \[5, 1, 0\]'):
        load_image(folder, path, bands=[5, 1, 0])
    assert 'bands=[1, 2, 3, 4, 5]' in band_reading(folder)


def test_a_batch_of_bands_is_normalised_by_its_own_statistics(folder):
    mean, std = [10.0, 20.0, 30.0, 40.0, 50.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    cfg = dict(type='SemiDataPreprocessor', mean=mean, std=std, rgb=RGB, size=(48, 48))
    preprocessor = MODELS.build(cfg)
    packed = folder[0]
    batch = {key: {'weak': [value]} for key, value in packed.items()}
    raw = packed['inputs'].clone()
    found = preprocessor(batch, True)['inputs']['weak'][0]
    expected = (raw - torch.tensor(mean).view(5, 1, 1)) / torch.tensor(std).view(5, 1, 1)
    torch.testing.assert_close(found[:, :40, :30], expected)
    with pytest.raises(ValueError, match='bgr_to_rgb=True turns the order of three channels'):
        MODELS.build(dict(cfg, bgr_to_rgb=True))
    with pytest.raises(ValueError, match='are not three of its 5 channels'):
        MODELS.build(dict(cfg, rgb=[5, 1, 0]))


def test_bands_kept_in_memory_are_loaded_once(folder):
    steps = [dict(type='KeepInMemory', transforms=[dict(type='LoadBands', **RASTER)])]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    path = folder.get_data_info(0)['img_path']
    first = pipeline(dict(img_path=path))
    first['img'][:] = 0
    assert pipeline(dict(img_path=path))['img'].any()
