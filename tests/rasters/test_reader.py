# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any depth and bands as 8-bit RGB."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.rasters.reader import (
    RasterToRGB,
    estimate_stretch,
    raster_info,
    read_rgb,
)

rasterio = pytest.importorskip('rasterio')
pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def write_tiff(path, bands, **options):
    count, height, width = bands.shape
    with rasterio.open(
        path, 'w', driver='GTiff', count=count, height=height, width=width,
        dtype=bands.dtype, **options,
    ) as raster:  # fmt: skip
        raster.write(bands)
    return path


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_stretch_is_linear_clipped_and_rounded(dtype):
    bands = np.array([[[0, 10, 60, 110, 120]], [[10, 10, 10, 10, 10]], [[5, 10, 15, 20, 25]]])
    rgb = RasterToRGB(low=[10, 0, 5], high=[110, 20, 25])(bands.astype(dtype))
    assert rgb.dtype == np.uint8
    assert rgb[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert rgb[0, :, 1].tolist() == [128] * 5
    assert rgb[0, :, 2].tolist() == [0, 64, 128, 191, 255]


def test_bytes_are_left_as_they_are_and_one_band_is_grey():
    bands = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    rgb = RasterToRGB()(bands)
    assert rgb.shape == (16, 16, 3)
    assert (rgb == bands[0][..., None]).all()


def test_nan_becomes_black():
    bands = np.full((3, 1, 1), np.nan, np.float32)
    assert RasterToRGB(low=[-1] * 3, high=[1] * 3)(bands).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(bands=[1, 2]), 'one or three numbers'),
        (dict(bands=[0, 1, 2]), 'from 1'),
        (dict(low=[1, 2, 3]), 'both or neither'),
        (dict(bands=[1], low=[1, 2, 3], high=[4, 5, 6]), 'one number per band'),
        (dict(low=[1, 2, 3], high=[4, 2, 6]), 'empty in a band'),
    ],
)
def test_wrong_settings_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        RasterToRGB(**options)


def test_wrong_bands_are_told():
    with pytest.raises(ValueError, match='uint16 need low and high'):
        RasterToRGB()(np.zeros((3, 2, 2), np.uint16))
    with pytest.raises(ValueError, match='give 3 of them'):
        RasterToRGB(low=[0] * 3, high=[1] * 3)(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r'scene has 3 bands but bands \[4, 3, 2\]'):
        RasterToRGB([4, 3, 2]).choose(3, 'scene')
    assert RasterToRGB().choose(7) == [1, 2, 3]
    assert RasterToRGB().choose(2) == [1]


def test_bands_of_a_deep_raster_in_the_asked_order(tmp_path):
    bands = np.stack([np.full((1030, 3), 100 * k, np.uint16) for k in range(1, 5)])
    bands[:, 1025, 1] = 0  # beyond the first strip
    path = write_tiff(tmp_path / 'scene.tif', bands, nodata=0)
    read = read_rgb(path, RasterToRGB([4, 3, 2], low=[0] * 3, high=[510] * 3))
    assert read.pixels[0, 0].tolist() == [200, 150, 100]
    assert np.argwhere(~read.valid).tolist() == [[1025, 1]]
    info = raster_info(path)
    assert (info.width, info.height, info.bands, info.dtype) == (3, 1030, 4, 'uint16')
    assert info.transparent and not info.by_pillow


def test_every_kind_of_file_gives_the_same_pixels(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    Image.fromarray(rgb).save(tmp_path / 'b.tif', compression='tiff_lzw')
    write_tiff(tmp_path / 'c.tif', rgb.transpose(2, 0, 1))
    write_tiff(tmp_path / 'd.tif', np.concatenate([rgb, rgb[..., :1]], 2).transpose(2, 0, 1),
               photometric='minisblack')  # fmt: skip
    Image.fromarray(rgb).quantize(256).save(tmp_path / 'palette.png')
    for name in ('a.png', 'b.tif', 'c.tif', 'd.tif'):
        read = read_rgb(tmp_path / name)
        assert (read.pixels == rgb).all(), name
        assert read.valid is None
    with Image.open(tmp_path / 'palette.png') as image:
        assert (read_rgb(tmp_path / 'palette.png').pixels == np.asarray(image.convert('RGB'))).all()


def test_sixteen_bits_of_a_png_are_not_halved(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 50
    cv2.imwrite(str(tmp_path / 'deep.png'), values)  # BGR
    assert raster_info(tmp_path / 'deep.png').dtype == 'uint16'
    read = read_rgb(tmp_path / 'deep.png', RasterToRGB(low=[0] * 3, high=[550] * 3))
    assert (read.pixels == np.rint(values[..., ::-1] / 550 * 255)).all()
    with pytest.raises(ValueError, match=r'deep\.png.*need low and high'):
        read_rgb(tmp_path / 'deep.png')


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (8, 4)).save(tmp_path / 'turned.jpg', exif=exif)
    info = raster_info(tmp_path / 'turned.jpg')
    assert (info.width, info.height) == (4, 8)
    assert read_rgb(tmp_path / 'turned.jpg').pixels.shape == (8, 4, 3)


def test_transparent_pixels_have_no_data(tmp_path):
    rgba = np.full((2, 3, 4), 255, np.uint8)
    rgba[0, 1, 3] = 0
    Image.fromarray(rgba).save(tmp_path / 'a.png')
    assert (~read_rgb(tmp_path / 'a.png').valid).nonzero() == (np.array([0]), np.array([1]))
    write_tiff(tmp_path / 'b.tif', np.array([[[7, 9]]] * 3, np.uint8), nodata=7)
    assert read_rgb(tmp_path / 'b.tif').valid.tolist() == [[False, True]]


def test_stretch_leaves_out_what_has_no_data_and_files_that_are_broken(tmp_path):
    for number in range(2):
        band = np.linspace(1000, 2000, 10000).reshape(100, 100).astype(np.uint16)
        band[:50] = 0
        write_tiff(
            tmp_path / f'{number}.tif', np.stack([band, np.where(band, band + 5000, 0)]), nodata=0
        )
    (tmp_path / 'broken.tif').write_bytes(b'II*\0 nothing')
    to_rgb = estimate_stretch(sorted(tmp_path.iterdir()), [2])
    assert to_rgb.bands == [2]
    assert to_rgb.low == [pytest.approx(6510, abs=5)]
    assert to_rgb.high == [pytest.approx(6990, abs=5)]
    with pytest.raises(ValueError, match='cannot be estimated'):
        estimate_stretch([tmp_path / 'broken.tif'])


def test_bad_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no\.png does not exist'):
        read_rgb(tmp_path / 'no.png')
    Image.new('RGB', (64, 64)).save(tmp_path / 'cut.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'cut.jpg').read_bytes()[:300])
    (tmp_path / 'text.tif').write_text('no raster')
    for name in ('cut.jpg', 'text.tif'):
        with pytest.raises(ValueError, match=f'{name} cannot be read .*: replace the file'):
            read_rgb(tmp_path / name)


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / 'deep.tif', np.ones((4, 5, 5), np.uint16))
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(ImportError, match=r"deep\.tif .* pip install 'mmseg_semi_rs\[geo\]'"):
        read_rgb(path, RasterToRGB(low=[0] * 3, high=[9] * 3))
    Image.new('RGB', (4, 4)).save(tmp_path / 'plain.tif')
    assert read_rgb(tmp_path / 'plain.tif').pixels.shape == (4, 4, 3)
