# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any number of bands: one scale for all sensors, the same pixels for all who read."""

import numpy as np
import pytest

from mmseg_semi_rs.rasters.levels import RasterToBands, RasterToRGB, raster_conversion
from mmseg_semi_rs.rasters.reader import read_rgb
from mmseg_semi_rs.rasters.sources import open_source
from mmseg_semi_rs.rasters.stretch import estimate_stretch, measure_statistics
from tests._support.bands import HIGH, LOW, stack, write_bands

rasterio = pytest.importorskip('rasterio')


def test_each_band_becomes_grey_levels_that_are_neither_rounded_nor_clipped():
    bands = stack()
    to_bands = RasterToBands(None, LOW, HIGH, rgb=[3, 2, 1], count=5)
    bands[0, 0, :3] = (-500, 1500, 9000)  # a shadow, glitter, a broken detector
    found = to_bands(bands)
    assert found.dtype == np.float32
    assert found.shape == (40, 30, 5)
    assert found[0, :3, 0].tolist() == [-127.5, 382.5, 510.0]
    expected = (bands[3] - 100) / 5000 * 255
    np.testing.assert_allclose(found[..., 3], expected, atol=1e-3)
    assert (found[1:] % 1 != 0).mean() > 0.9


def test_a_picture_is_what_the_three_bands_would_be_alone():
    bands = stack()
    to_bands = RasterToBands([5, 1, 2, 3], [-50, 0, 0, 0], [50] + 3 * [1000], rgb=[3, 2, 1])
    alone = RasterToRGB([3, 2, 1], [0] * 3, [1000] * 3)
    bands[:3, 0, :2] = [[-500, 2000]] * 3
    shown = to_bands.picture(to_bands(bands[[4, 0, 1, 2]]))
    np.testing.assert_array_equal(shown, alone(bands[[2, 1, 0]]))
    assert to_bands.rgb_channels == [3, 2, 1]


def test_files_windows_and_arrays_give_the_same_pixels(tmp_path):
    bands = stack()
    bands[:, :3] = -9999
    bands[1, 5, 5] = -9999
    path = write_bands(tmp_path / 'a.tif', bands, nodata=-9999)
    to_bands = RasterToBands(None, LOW, HIGH, rgb=[3, 2, 1], count=5, nodata=-9999)
    whole, valid = read_rgb(path, to_bands)
    assert not valid[:3].any()
    assert valid[3:].all()
    assert not whole[:3].any()  # where there is nothing, whatever number the file has there
    assert whole[5, 5, 1] == 0
    np.testing.assert_array_equal(whole[3:], to_bands(bands)[3:])
    with open_source(path, to_bands) as source:
        part, seen = source.read(2, 20, 4, 9)
        assert source.shrunk((20, 15)).dtype == np.uint8
        assert source.told == 'bands 1, 2, 3, 4, 5 of 5'
    np.testing.assert_array_equal(part, whole[2:20, 4:9])
    np.testing.assert_array_equal(seen, valid[2:20, 4:9])


def test_a_file_of_other_bands_is_refused(tmp_path):
    bands = stack()
    path = write_bands(tmp_path / 'four.tif', bands[:4])
    with pytest.raises(ValueError, match=r'four\.tif has 4 bands where files of 5 are read'):
        read_rgb(path, RasterToBands(None, LOW, HIGH, count=5))
    with pytest.raises(ValueError, match=r'has 4 bands but bands \[1, 5\] are asked for'):
        read_rgb(path, RasterToBands([1, 5], [0, 0], [1, 1]))
    with pytest.raises(ValueError, match='need low and high'):
        read_rgb(path, RasterToBands([1, 2, 3, 4]))


def test_an_infrared_band_that_gdal_calls_alpha_is_data(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (4, 20, 20)).astype(np.uint8)
    levels[3, :10] = 0
    path = write_bands(tmp_path / 'naip.tif', levels, photometric='rgb', alpha='yes')
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3].name == 'alpha'
    pixels, valid = read_rgb(path, RasterToBands([1, 2, 3, 4], rgb=[1, 2, 3]))
    assert valid is None
    np.testing.assert_array_equal(pixels, levels.transpose(1, 2, 0).astype(np.float32))
    assert not read_rgb(path).valid[:10].any()  # of RGB it is what GDAL says
    for to_rgb in (RasterToRGB([4, 1, 2]), RasterToBands(rgb=[1, 2, 3])):  # read as data, too
        assert read_rgb(path, to_rgb).valid is None


@pytest.mark.parametrize('declared', [-9999, None])
def test_gaps_of_a_single_band_are_no_part_of_its_stretch(tmp_path, declared):
    bands = np.random.default_rng(0).uniform(100, 200, (2, 40, 40)).astype(np.float32)
    bands[1, :10] = -9999  # such as holes in a height model
    path = write_bands(tmp_path / 'height.tif', bands, nodata=declared)
    given = None if declared else -9999
    found = estimate_stretch([path], None, nodata=given, kind=RasterToBands)
    assert min(found.low) > 100 and max(found.high) < 201
    pixels, valid = read_rgb(path, found)
    assert valid is None and (pixels[:10, :, 1] == 0).all() and (pixels[:10, :, 0] != 0).any()


def test_declared_no_data_counts_where_an_infrared_band_is_called_alpha(tmp_path):
    levels = np.full((4, 20, 20), 100, np.uint8)
    levels[:, :5], levels[3, 5:10] = 0, 0
    path = write_bands(tmp_path / 'naip.tif', levels, photometric='rgb', alpha='yes', nodata=0)
    valid = read_rgb(path, RasterToBands([1, 2, 3, 4], rgb=[1, 2, 3])).valid
    assert not valid[:5].any() and valid[5:].all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(bands=[1, 1]), 'different numbers from 1'),
        (dict(bands=[0, 1]), 'different numbers from 1'),
        (dict(bands=[1, 2], rgb=[1, 2, 3]), 'not one or three of the bands'),
        (dict(bands=[1, 2, 3], rgb=[1, 2]), 'not one or three of the bands'),
        (dict(bands=[1, 2], low=[0], high=[1]), 'one number per band'),
        (dict(bands=[1, 2], low=[0, 0]), 'both ends'),
        (dict(bands=[1, 2], low=[0, 5], high=[1, 5]), 'empty in a band'),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RasterToBands(**settings)


def test_a_config_says_by_rgb_or_count_that_it_means_bands():
    assert type(raster_conversion(dict(bands=[4, 3, 2]))) is RasterToRGB
    assert type(raster_conversion(dict(bands=[4, 3, 2], rgb=[4, 3, 2]))) is RasterToBands
    assert raster_conversion(dict(count=2)).bands == [1, 2]


def test_stretch_and_statistics_are_measured_on_what_has_data(tmp_path):
    bands = stack()
    bands[:, :10] = -9999
    paths = [write_bands(tmp_path / f'{k}.tif', bands, nodata=-9999) for k in range(2)]

    def kind(*stretch, **settings):
        return RasterToBands(*stretch, **settings, rgb=[1, 2, 3], count=5)

    found = estimate_stretch(paths, None, (0, 100), kind=kind)
    np.testing.assert_allclose(found.low, LOW, atol=10)
    np.testing.assert_allclose(found.high, HIGH, atol=10)
    mean, std = measure_statistics(paths, found)
    levels = found(bands)[10:].reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(mean, levels.mean(0), atol=0.01)
    np.testing.assert_allclose(std, levels.std(0), atol=0.01)
