# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Windows, strips and files of a prediction, with networks whose answer is known."""

import json
import resource
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.models import SegDataPreProcessor
from PIL import Image
from torch import nn

from mmseg_semi_rs.apis import Layers, Predictor, predict_files, predict_image
from mmseg_semi_rs.apis import prediction as prediction_module
from mmseg_semi_rs.apis.maps import MapWriter
from mmseg_semi_rs.apis.mosaic import Mosaic
from mmseg_semi_rs.rasters import sources as sources_module
from mmseg_semi_rs.rasters.grid import Axis
from mmseg_semi_rs.rasters.levels import RasterToRGB
from mmseg_semi_rs.rasters.place import square_metres
from mmseg_semi_rs.rasters.reader import read_rgb
from mmseg_semi_rs.rasters.sources import PixelSource, open_source
from mmseg_semi_rs.utils.files import held
from tests._support import processes
from tests._support.blur import CLASSES, PALETTE, Blur, predictor
from tests._support.rasters import picture, write_raster


class Colours(Blur):
    """Class logits are the colours themselves, which costs nothing."""

    def inference(self, inputs, metas):
        return inputs


def whole(model, image):
    """Probabilities of an image by one forward, written plainly."""
    with torch.no_grad():
        x = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 32
        return model.conv(x).softmax(1)[0].numpy()


# The grid.


@pytest.mark.parametrize('overlap', [0, 1, 2, 7, 16, 31])
@pytest.mark.parametrize('length', [5, 32, 33, 40, 63, 100, 257])
def test_weights_add_up_to_one_everywhere(length, overlap):
    axis = Axis.cover(length, 32, overlap)
    total = np.zeros(axis.length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert 0 <= start <= axis.length - 32
        assert (weight >= 0).all()
        total[start : start + 32] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_window_does_not_count_at_its_edge_where_a_neighbour_sees_more():
    axis = Axis.cover(100, 32, 16)
    first, second = axis.weights[:2]
    assert (first[:16] == 1).all()  # no neighbour above
    assert (first[-4:] == 0).all() and (second[:4] == 0).all()
    assert (np.diff(second[4:12]) > 0).all()
    np.testing.assert_allclose(first[16:] + second[:16], 1, rtol=1e-6)


def test_windows_that_count_between_two_pixels():
    axis = Axis.cover(100, 32, 16)  # starts 0, 16, 32, 48, 64, 68
    assert axis.starts == (0, 16, 32, 48, 64, 68)
    for begin, end in [(0, 100), (0, 16), (30, 31), (60, 72)]:
        plainly = [
            index
            for index, start in enumerate(axis.starts)
            if any(
                axis.weights[index][pixel - start] > 0
                for pixel in range(max(begin, start), min(end, start + 32))
            )
        ]
        assert list(axis.between(begin, end)) == plainly


def test_an_overlap_as_large_as_the_window_is_refused():
    with pytest.raises(ValueError, match='overlap of 32 px does not fit windows of 32 px'):
        Axis.cover(100, 32, 32)


# One image.


@pytest.mark.parametrize('size', [(100, 90), (32, 32), (33, 150), (64, 70)])
@pytest.mark.parametrize('overlap', [8, 12])
def test_windows_give_what_the_whole_image_gives(size, overlap):
    """A quarter of the overlap, 2 px or more, is as far as the network sees: no seam anywhere."""
    model, image = Blur(), picture(*size)
    found = predict_image(predictor(model=model, overlap=overlap), image)
    expected = whole(model, image)
    np.testing.assert_allclose(found.probabilities / 255, expected, atol=0.5 / 255 + 1e-6)
    assert (found.labels == expected.argmax(0)).mean() > 0.999
    np.testing.assert_allclose(found.confidence / 255, expected.max(0), atol=0.5 / 255 + 1e-6)


def test_without_overlap_there_are_seams():
    """The test above would see them."""
    model, image = Blur(), picture(100, 90)
    found = predict_image(predictor(model=model, overlap=0), image)
    wrong = np.abs(found.probabilities / 255 - whole(model, image)).max(0) > 0.01
    assert wrong[30:34].any() and not wrong[4:28, 4:28].any()


def test_an_image_smaller_than_a_window_is_mirrored():
    image = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    found = predict_image(predictor(), image)
    mirrored = np.pad(image, ((0, 22), (0, 12), (0, 0)), mode='symmetric')
    expected = whole(Blur(), mirrored)[:, :10, :20]
    assert found.labels.shape == (10, 20)
    np.testing.assert_allclose(found.probabilities / 255, expected, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize('batch_size', [1, 3, 100])
def test_panels_and_batches_do_not_change_the_map(batch_size):
    image = picture(70, 300)
    expected = predict_image(predictor(batch_size=1), image)
    made = predictor(batch_size=batch_size)
    mosaic = Mosaic(made, 300, 70, memory=4 * 3 * 32 * 128)
    assert mosaic.strips == 3 * 5  # panels of 64 px
    labels = np.full((70, 300), 77, np.uint8)
    sure = np.zeros((70, 300), np.uint8)
    for strip in mosaic.predict(PixelSource(image)):
        rows, columns = strip.labels.shape
        assert columns <= 64
        here = np.s_[strip.top : strip.top + rows, strip.left : strip.left + columns]
        assert (labels[here] == 77).all()
        labels[here], sure[here] = strip.labels, strip.confidence
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(sure.astype(int), expected.confidence, atol=1)
    assert mosaic.windows == sum(map(mosaic.windows_of, range(mosaic.strips)))


def test_strips_that_are_left_out_do_not_change_the_others():
    image = picture(150, 100)
    mosaic = Mosaic(predictor(), 100, 150, memory=1)
    every = {strip.number: strip for strip in mosaic.predict(PixelSource(image))}
    assert sorted(every) == list(range(mosaic.strips))
    for done in [{0}, {0, 1, 2}, set(every) - {3}, {2, 4}]:
        rest = list(mosaic.predict(PixelSource(image), done))
        assert [strip.number for strip in rest] == sorted(set(every) - done)
        for strip in rest:
            assert (strip.top, strip.left) == (every[strip.number].top, every[strip.number].left)
            np.testing.assert_array_equal(strip.labels, every[strip.number].labels)
            np.testing.assert_array_equal(strip.confidence, every[strip.number].confidence)


def test_every_pixel_is_read_once_per_panel():
    class Counting(PixelSource):
        def read(self, top, bottom, left, right):
            count[top:bottom, left:right] += 1
            return super().read(top, bottom, left, right)

    count = np.zeros((150, 100), int)
    list(Mosaic(predictor(), 100, 150).predict(Counting(picture(150, 100))))
    assert (count == 1).all()


def test_windows_without_data_are_not_predicted_and_have_no_class():
    model, image = Blur(), picture(120, 120)
    valid = np.zeros((120, 120), bool)
    valid[:20, :20] = True
    mosaic = Mosaic(predictor(model=model), 120, 120)
    strips = list(mosaic.predict(PixelSource(image, valid), probabilities=True))
    labels = np.concatenate([strip.labels for strip in strips])
    assert model.windows == 1 and mosaic.windows == 25
    assert (labels[~valid] == 255).all() and (labels[valid] < 3).all()
    for strip in strips:
        nothing = strip.labels == 255
        assert (strip.confidence[nothing] == 0).all()
        assert (strip.probabilities[:, nothing] == 0).all()


def test_flips_are_the_mean_of_four_views():
    class Shift(Blur):
        """Not symmetric: the logits of a pixel are the colours two pixels to the lower right."""

        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.conv.weight)
            for colour in range(3):
                nn.init.constant_(self.conv.weight[colour, colour, 4, 4], 1)

    model, image = Shift(), picture(32, 32)
    expected = np.mean(
        [
            whole(model, image),
            whole(model, image[:, ::-1].copy())[:, :, ::-1],
            whole(model, image[::-1].copy())[:, ::-1],
            whole(model, image[::-1, ::-1].copy())[:, ::-1, ::-1],
        ],
        axis=0,
    )
    found = predict_image(predictor(model=model, flips=True), image)
    np.testing.assert_allclose(found.probabilities / 255, expected, atol=0.5 / 255 + 1e-6)
    assert np.abs(expected - whole(model, image)).max() > 0.1


def test_windows_are_resized_for_the_network():
    class Size(Blur):
        align_corners = False

        def inference(self, inputs, metas):
            assert inputs.shape[-2:] == (48, 40)
            assert {meta['ori_shape'] for meta in metas} == {(32, 32)}
            assert {meta['img_shape'] for meta in metas} == {(48, 40)}
            return super().inference(inputs, metas)

    found = predict_image(predictor(model=Size(), input_size=(48, 40)), picture(32, 32))
    assert found.labels.shape == (32, 32)


@pytest.mark.parametrize(
    'settings', [dict(window=0), dict(overlap=32), dict(overlap=-1), dict(batch_size=0)]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match='must be positive, and the overlap smaller'):
        predictor(**settings)


def test_other_classes_than_the_models_are_refused():
    with pytest.raises(ValueError, match='The model has 3 classes, but there are 2 names and 3'):
        Predictor(Blur(), CLASSES[:2], PALETTE, 32)


def test_the_fingerprint_changes_with_all_that_changes_a_map():
    settings = [
        {}, dict(window=64), dict(overlap=3), dict(batch_size=2), dict(input_size=(64, 64)),
        dict(flips=True), dict(amp=True), dict(to_rgb=RasterToRGB([3, 2, 1])),
        dict(to_rgb=RasterToRGB(low=[0], high=[9])), dict(fingerprint='x'),
    ]  # fmt: skip
    assert len({predictor(**more).fingerprint for more in settings}) == len(settings)
    assert predictor().fingerprint == predictor().fingerprint


def test_few_strips_wait_to_be_written():
    done = []

    def slow(item):
        time.sleep(0.005)
        done.append(item)

    with prediction_module.in_background(slow) as write:
        for item in range(10):
            write(item)
            assert len(done) >= item - 2
    assert done == list(range(10))


def test_pixels_that_are_no_rgb_are_refused():
    with pytest.raises(ValueError, match=r'not \(8, 8, 4\) uint8'):
        predict_image(predictor(), np.zeros((8, 8, 4), np.uint8))


# Files.


def test_a_raster_becomes_a_cloud_optimised_geotiff_of_its_place(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    image = picture(701, 601)[1:, 1:]  # its blocks are not those of an overview
    image[:40, :50] = 0
    write_raster(tmp_path / 'city.tif', image, nodata=0)
    made = predictor(window=128)
    made.palette = palette = [[0] * 3, [100] * 3, [200] * 3]  # green looks like red and blue mixed
    layers = Layers(confidence=True, probabilities=True)
    result = predict_files(made, tmp_path / 'city.tif', tmp_path / 'out', layers)
    assert not result.failures
    files = result.files[tmp_path / 'city.tif']
    assert [file.name for file in files] == [
        'city.tif', 'city_confidence.tif', 'city_probabilities.tif',
    ]  # fmt: skip
    expected = predict_image(made, image)
    valid = (image != 0).any(-1)
    with rasterio.open(tmp_path / 'city.tif') as source, rasterio.open(files[0]) as found:
        assert found.crs == source.crs and found.transform == source.transform
        assert found.shape == source.shape and found.nodata == 255
        assert found.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
        assert found.profile['tiled'] and found.overviews(1)
        assert [found.colormap(1)[index][:3] for index in range(3)] == [*map(tuple, palette)]
        assert found.colormap(1)[255][3] == 0
        assert found.tags(1)['2'] == 'blue'
        labels = found.read(1)
    with rasterio.open(files[1]) as found:
        assert found.nodata == 0 and found.scales == (1 / 255,)
        confidence = found.read(1)
    with rasterio.open(files[2]) as found:
        assert found.descriptions == tuple(CLASSES) and found.count == 3
        shares = found.read()
    with rasterio.open(files[0], overview_level=0) as found:  # of each 2 x 2 pixels one of them
        blocks = labels.reshape(350, 2, 300, 2)
        assert (found.read(1)[:, None, :, None] == blocks).any((1, 3)).all()
    with rasterio.open(files[1], overview_level=0) as found:  # their mean
        mean = confidence.reshape(350, 2, 300, 2).mean((1, 3))
        assert np.abs(found.read(1) - mean)[30:].max() <= 1
    assert (labels[~valid] == 255).all() and (confidence[~valid] == 0).all()
    assert (shares[:, ~valid] == 0).all()
    assert (labels == expected.labels)[valid].all()
    assert (confidence == expected.confidence)[valid].all()
    assert (shares == expected.probabilities)[:, valid].all()
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        [*(file.name for file in files), 'predictions.jsonl']
    )


def test_polygons_follow_the_map(tmp_path):
    fiona, rasterio = pytest.importorskip('fiona'), pytest.importorskip('rasterio')
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0] = 255
    image[:, 48:] = (0, 255, 0)
    image[:8, :8] = 1  # no data
    write_raster(tmp_path / 'a.tif', image, nodata=1)
    result = predict_files(
        predictor(), tmp_path / 'a.tif', tmp_path / 'm.tif', Layers(confidence=True, polygons=True)
    )
    names = [path.name for path in result.files[tmp_path / 'a.tif']]
    assert names == ['m.tif', 'm_confidence.tif', 'm.gpkg']
    labels, sure = (rasterio.open(tmp_path / name).read(1) for name in names[:2])
    with fiona.open(tmp_path / 'm.gpkg') as found:
        assert found.crs.to_epsg() == 32633
        rows = list(found)
    assert sorted(row['properties']['class_name'] for row in rows) == ['green', 'red']
    area = {}
    for row in rows:
        ring = np.array(row['geometry']['coordinates'][0])
        x, y = ring.T
        area[row['properties']['class_id']] = (
            abs(np.dot(x[:-1] - x[0], y[1:] - y[0]) - np.dot(x[1:] - x[0], y[:-1] - y[0])) / 2
        )
    pixel = 0.5 * 0.5 + 0.1 * 0.1
    for row in rows:
        told = row['properties']
        assert told['area_m2'] == pytest.approx(area[told['class_id']], abs=1e-2)
        assert told['pixels'] == 64 * 48 - (64 if told['class_id'] == 0 else 0)
        mean = sure[labels == told['class_id']].mean() / 255
        assert told['confidence'] == pytest.approx(mean, abs=1e-3)
    assert area[1] == pytest.approx(64 * 48 * pixel) and area[0] == pytest.approx(
        (64 * 48 - 64) * pixel
    )


@pytest.mark.parametrize('asked', [False, True])
def test_background_is_in_polygons_and_previews_only_if_asked_for(tmp_path, asked):
    fiona = pytest.importorskip('fiona')
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[20:40, 20:40] = 255, (0, 255, 0)
    Image.fromarray(image).save(tmp_path / 'a.png')
    made = Predictor(Blur().eval(), ('background', 'road', 'roof'), PALETTE, 32)
    layers = Layers(polygons=True, preview=True, background=asked)
    files = predict_files(made, tmp_path / 'a.png', tmp_path / 'out', layers)
    *_, outlines, preview = files.files[tmp_path / 'a.png']
    with fiona.open(outlines) as found:
        told = {row['properties']['class_name'] for row in found}
    assert ('background' in told) is asked and 'road' in told
    with Image.open(preview) as shown:
        pixels = np.asarray(shown)
    assert (pixels[5, 5] == image[5, 5]).all()  # the plain image
    assert (pixels[5, 64 + 5] == image[5, 5]).all() is not asked


@pytest.mark.parametrize(
    ('code', 'y', 'unit', 'area'),
    [
        (32633, 45, 10, 100.0),
        (2263, 45, 10, 9.29),
        (4326, 45, 1e-4, 123.9 * 0.7088),
        (3857, 5621521, 10, 50.0),  # 45 degrees north on a Mercator map
    ],
)
def test_areas_are_in_square_metres_whatever_the_coordinates(code, y, unit, area):
    rasterio = pytest.importorskip('rasterio')
    crs = rasterio.crs.CRS.from_epsg(code)
    assert unit**2 * square_metres(crs, y) == pytest.approx(area, rel=3e-3)


@pytest.mark.parametrize('world', ['jgw', 'jpgw', 'wld', 'JGW'])
def test_a_photograph_with_a_world_file_keeps_its_place_and_its_pixels(tmp_path, world):
    pytest.importorskip('rasterio')
    import rasterio

    for name in ('a', 'b'):
        Image.fromarray(picture(60, 50)).save(tmp_path / f'{name}.jpg')
    (tmp_path / f'a.{world}').write_text('0.5\n0\n0\n-0.5\n500000\n4000000\n')
    found = predict_files(predictor(), tmp_path, tmp_path / 'out', Layers(preview=True)).files
    located, plain = (found[tmp_path / f'{name}.jpg'][0] for name in ('a', 'b'))
    with rasterio.open(located) as raster, rasterio.open(tmp_path / 'a.jpg') as photograph:
        if not photograph.transform.is_identity:  # GDAL looks for these names in small letters
            assert raster.transform == photograph.transform
        labels = raster.read(1)
    with Image.open(plain) as image:
        assert (labels == np.asarray(image)).all()


def test_ground_control_points_and_rational_polynomials_are_kept(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    from rasterio.rpc import RPC

    numbers = [0.1 * k for k in range(20)]
    rpcs = RPC(10.0, 5.0, 45.0, 1.0, numbers, numbers, 50.0, 50.0, 7.0, 1.0, numbers, numbers,
               50.0, 50.0, None, None)  # fmt: skip
    shape = dict(driver='GTiff', count=3, height=60, width=50, dtype='uint8')
    with rasterio.open(tmp_path / 'a.tif', 'w', **shape) as raster:
        raster.write(picture(60, 50).transpose(2, 0, 1))
        raster.rpcs = rpcs
    (files,) = predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'out').files.values()
    with rasterio.open(files[0]) as raster, rasterio.open(tmp_path / 'a.tif') as image:
        assert raster.rpcs.to_gdal() == image.rpcs.to_gdal()


@pytest.mark.parametrize(
    'name', ['-73.99_40.71', '+2', '(a)', '2.35_48.85', 'gpkg_1', 'Rtree', 'ä b', '_x', '#1', ' y']
)
def test_layers_of_polygons_have_names_that_gdal_takes(tmp_path, name):
    fiona = pytest.importorskip('fiona')
    Image.fromarray(picture(20, 20)).save(tmp_path / f'{name}.png')
    result = predict_files(predictor(), tmp_path, tmp_path / 'out', Layers(polygons=True))
    assert not result.failures
    (layer,) = fiona.listlayers(tmp_path / 'out' / f'{name}.gpkg')
    assert layer.endswith(name)


def test_several_inputs_and_images_in_memory(tmp_path):
    for name in ('a', 'b', 'more/c'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(20, 20)).save(tmp_path / f'{name}.png')
    (tmp_path / 'bad.png').write_bytes(b'no image')
    inputs = [str(tmp_path / 'a.png'), tmp_path / 'bad.png', tmp_path / 'more', tmp_path / 'a.png']
    result = predict_files(predictor(), inputs, tmp_path / 'out')
    assert sorted(path.stem for path in result.files) == ['a', 'c']
    assert list(result.failed) == [tmp_path / 'bad.png'] and len(result.failures) == 1
    pixels = picture(20, 20)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert('RGBA')):
        labels = predict_image(predictor(), image).labels
        assert (labels == predict_image(predictor(), pixels).labels).all()
    for wrong in (pixels, [pixels], Image.new('RGB', (9, 9)), {}):
        with pytest.raises(ValueError, match='predict_image'):
            predict_files(predictor(), wrong, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='empty list'):
        predict_files(predictor(), [], tmp_path / 'out')
    with pytest.raises(ValueError, match='predict_files'):
        predict_image(predictor(), [pixels])
    with pytest.raises(ValueError, match='more than 8 bits'):
        predict_image(predictor(), Image.new('I;16', (9, 9)))


def test_linked_folders_and_patterns_that_a_shell_left(tmp_path):
    """What the survey of a folder finds is predicted, and cmd.exe expands no pattern."""
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(20, 20)).save(tmp_path / name / f'{name}.png')
    (tmp_path / 'a' / 'linked').symlink_to(tmp_path / 'b')
    (tmp_path / 'a' / 'circle').symlink_to(tmp_path / 'a')
    result = predict_files(predictor(), tmp_path / 'a', tmp_path / 'out')
    assert sorted(path.stem for path in result.files) == ['a', 'b']
    result = predict_files(predictor(), str(tmp_path / 'a' / '*.p?g'), tmp_path / 'two')
    assert [path.stem for path in result.files] == ['a']
    with pytest.raises(FileNotFoundError, match=r'\*\.tif does not exist'):
        predict_files(predictor(), str(tmp_path / 'a' / '*.tif'), tmp_path / 'three')


def test_bands_that_are_taken_are_told(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    shape = dict(driver='GTiff', height=20, width=20, dtype='uint8')
    for name, count, options in (('a', 4, dict(photometric='rgb', alpha='yes')), ('b', 1, {}),
                                 ('c', 4, dict(photometric='minisblack'))):  # fmt: skip
        with rasterio.open(
            tmp_path / f'{name}.tif', 'w', count=count, **shape, **options
        ) as raster:
            raster.write(np.full((count, 20, 20), 255, np.uint8))
    assert predict_files(predictor(), tmp_path, tmp_path / 'out').bands == {
        'bands 1, 2, 3 of 4; alpha ignored': 1, 'band 1 of 1': 1, 'bands 1, 2, 3 of 4': 1,
    }  # fmt: skip


def test_bands_are_chosen_and_stretched(tmp_path):
    pytest.importorskip('rasterio')
    rgb = picture(40, 50)
    deep = np.zeros((40, 50, 4), np.uint16)
    deep[..., [3, 1, 0]] = 1000 + 10 * rgb.astype(np.uint16)
    write_raster(tmp_path / 'deep.tif', deep)
    to_rgb = RasterToRGB(bands=[4, 2, 1], low=[1000] * 3, high=[3550] * 3)
    result = predict_files(predictor(to_rgb=to_rgb), tmp_path / 'deep.tif', tmp_path / 'out.tif')
    import rasterio

    with rasterio.open(result.files[tmp_path / 'deep.tif'][0]) as found:
        np.testing.assert_array_equal(found.read(1), predict_image(predictor(), rgb).labels)
    result = predict_files(predictor(), tmp_path / 'deep.tif', tmp_path / 'other.tif')
    assert 'bands of type uint16, and the config has no stretch' in result.failures[0]


def test_a_folder_with_one_bad_image_finishes_and_names_it(tmp_path):
    folder = tmp_path / 'in'
    (folder / 'sub').mkdir(parents=True)
    for index, size in enumerate([(20, 30), (32, 32), (90, 100)]):
        Image.fromarray(picture(*size, seed=index)).save(folder / f'{index}.png')
    Image.fromarray(picture(40, 40)).save(folder / 'sub' / 'x.png')
    Image.fromarray(picture(30, 32)).save(folder / 'sub' / 'x.JPG', quality=95)
    (folder / 'broken.png').write_bytes((folder / '2.png').read_bytes()[:2000])
    (folder / 'text.png').write_text('no image')
    (folder / 'notes.txt').write_text('not looked at')
    out = tmp_path / 'out'
    result = predict_files(predictor(), folder, out, Layers(confidence=True))
    assert len(result.failures) == 2 and not result.skipped
    assert any('broken.png' in line for line in result.failures)
    assert any('text.png' in line for line in result.failures)
    names = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    maps = {'0', '1', '2', 'sub/x.png', 'sub/x.JPG'}
    assert names == {'predictions.jsonl'} | {
        f'{name}{suffix}.png' for name in maps for suffix in ('', '_confidence')
    }
    for image, files in result.files.items():
        with Image.open(files[0]) as found, Image.open(image) as given:
            assert found.mode == 'P' and found.getpalette()[:9] == np.ravel(PALETTE).tolist()
            expected = predict_image(predictor(), np.asarray(given.convert('RGB')))
            np.testing.assert_array_equal(np.asarray(found), expected.labels)
        with Image.open(files[1]) as found:
            np.testing.assert_array_equal(np.asarray(found), expected.confidence)


def test_what_is_done_is_not_predicted_again(tmp_path):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    for index, side in enumerate([30, 32, 70]):
        Image.fromarray(picture(side, side, seed=index)).save(folder / f'{index}.png')
    model = Blur()
    first = predict_files(predictor(model=model), folder, out)
    count = model.windows
    again = predict_files(predictor(model=model), folder, out)
    assert again.skipped == 3 and again.files == first.files and model.windows == count
    (out / '0.png').unlink()
    Image.fromarray(picture(70, 70, seed=9)).save(folder / '2.png')
    third = predict_files(predictor(model=model), folder, out)
    assert third.skipped == 1 and (out / '0.png').is_file()
    other = predict_files(predictor(model=model, flips=True), folder, out)
    assert other.skipped == 0
    back = predict_files(predictor(model=model), folder, out)  # the files are those of `other`
    assert back.skipped == 0


def test_a_mosaic_of_changed_tiles_is_predicted_again(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    from rasterio.shutil import copy

    write_raster(tmp_path / 'tile.tif', picture(40, 40))
    with rasterio.open(tmp_path / 'tile.tif') as tile:
        copy(tile, tmp_path / 'all.vrt', driver='VRT')
    for skipped in (0, 1):
        done = predict_files(predictor(), tmp_path / 'all.vrt', tmp_path / 'out')
        assert done.skipped == skipped
    write_raster(tmp_path / 'tile.tif', 255 - picture(40, 40))
    assert predict_files(predictor(), tmp_path / 'all.vrt', tmp_path / 'out').skipped == 0


def test_a_map_that_a_killed_run_of_other_settings_replaced_is_not_done(tmp_path, monkeypatch):
    image, out = tmp_path / 'a.png', tmp_path / 'out'
    Image.fromarray(picture(64, 64)).save(image)
    predict_files(predictor(), image, out)
    before = (out / 'a.png').read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, '_write_preview', killed)
        with pytest.raises(KeyboardInterrupt):
            predict_files(predictor(overlap=0), image, out, Layers(preview=True))
    assert (out / 'a.png').read_bytes() != before
    assert predict_files(predictor(), image, out).skipped == 0
    assert (out / 'a.png').read_bytes() == before


def test_maps_are_not_written_over_the_images(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='is the folder of the images'):
        predict_files(predictor(), tmp_path, tmp_path)
    with pytest.raises(ValueError, match='would overwrite its image'):
        predict_files(predictor(), tmp_path / 'a.png', tmp_path / 'a.png')
    with pytest.raises(ValueError, match='would overwrite its image'):
        predict_files(predictor(), tmp_path / 'a.png', tmp_path)


def test_nothing_to_predict_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no images'):
        predict_files(predictor(), tmp_path, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        predict_files(predictor(), tmp_path / 'none.png', tmp_path / 'out')
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(ValueError, match=r'a\.txt is no image'):
        predict_files(predictor(), tmp_path / 'a.txt', tmp_path / 'out')


def test_the_name_of_a_map_must_fit(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.jpg')
    with pytest.raises(ValueError, match=r'the map of .*a\.jpg is a \.png file'):
        predict_files(predictor(), tmp_path / 'a.jpg', tmp_path / 'map.tif')


def stop_at(strip, error, patch):
    """Let a prediction end with an error before it has finished a strip."""
    predict = Mosaic.predict

    def stopping(self, *words, **more):
        for found in predict(self, *words, **more):
            if found.number == strip:
                raise error
            yield found

    patch.setattr(Mosaic, 'predict', stopping)


def test_a_killed_prediction_goes_on_and_ends_bit_by_bit_the_same(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    write_raster(tmp_path / 'a.tif', picture(200, 150))
    layers = Layers(confidence=True, probabilities=True)
    predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'whole' / 'a.tif', layers, memory=1)

    class Killed(BaseException):
        pass

    out = tmp_path / 'out' / 'a.tif'
    for strip in (3, 9, 11):
        with monkeypatch.context() as patch:
            stop_at(strip, Killed, patch)
            with pytest.raises(Killed):
                predict_files(predictor(), tmp_path / 'a.tif', out, layers, memory=1)
    partial = out.with_name('.a.tif.partial')
    assert len(list(partial.glob('*.npz'))) == 11
    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, 'write', lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            predict_files(predictor(), tmp_path / 'a.tif', out, layers, memory=1)
    model = Blur()
    result = predict_files(predictor(model=model), tmp_path / 'a.tif', out, layers, memory=1)
    assert model.windows == 0 and not result.failures and not partial.exists()
    for path in (tmp_path / 'whole').glob('*.tif'):
        assert path.read_bytes() == (out.parent / path.name).read_bytes(), path.name


def test_strips_of_another_model_are_thrown_away(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    write_raster(tmp_path / 'a.tif', picture(100, 100))
    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, 'write', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_files(predictor(fingerprint='one'), tmp_path / 'a.tif', tmp_path / 'o.tif')
    model = Blur()
    predict_files(predictor(fingerprint='two', model=model), tmp_path / 'a.tif', tmp_path / 'o.tif')
    assert model.windows == 16


@pytest.mark.parametrize('change', ['image', 'memory'])
def test_strips_of_another_image_or_division_are_thrown_away(tmp_path, monkeypatch, change):
    rasterio = pytest.importorskip('rasterio')
    write_raster(tmp_path / 'a.tif', picture(100, 150))
    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, 'write', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'o.tif', memory=1)
    image = picture(100, 150, seed=int(change == 'image'))
    if change == 'image':
        write_raster(tmp_path / 'a.tif', image)
    memory = 1 if change == 'image' else 2**20
    predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'o.tif', memory=memory)
    with rasterio.open(tmp_path / 'o.tif') as found:
        np.testing.assert_array_equal(found.read(1), predict_image(predictor(), image).labels)


@pytest.mark.parametrize('side', [30, 70])
def test_transparent_pixels_of_a_picture_have_no_class(tmp_path, side):
    valid = np.ones((side, side), bool)
    valid[:5] = False
    rgba = np.dstack([picture(side, side), valid * np.uint8(255)])
    Image.fromarray(rgba).save(tmp_path / 'a.png')
    layers = Layers(confidence=True, probabilities=True)
    files = predict_files(predictor(), tmp_path / 'a.png', tmp_path / 'out', layers).files
    labels, confidence = (np.asarray(Image.open(file)) for file in files[tmp_path / 'a.png'][:2])
    shares = np.load(files[tmp_path / 'a.png'][2])
    assert ((labels == 255) == ~valid).all() and ((confidence == 0) == ~valid).all()
    assert not shares[:, ~valid].any() and shares.any(0)[valid].all()


def test_progress_counts_all_windows_whatever_becomes_of_them(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    folder, out = tmp_path / 'in', tmp_path / 'out'
    (folder / '.thumbnails').mkdir(parents=True)
    Image.fromarray(picture(32, 32)).save(folder / '.thumbnails' / 'a.png')
    for index, side in enumerate([30, 31]):
        Image.fromarray(picture(side, side)).save(folder / f'{index}.png')
    broken = folder / '1.png'
    broken.write_bytes(broken.read_bytes()[:-200])
    write_raster(folder / 'a.tif', picture(100, 100))
    with monkeypatch.context() as patch:
        stop_at(2, KeyboardInterrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            predict_files(predictor(), folder, out)
    seen = []
    result = predict_files(
        predictor(), folder, out, progress=lambda done, total: seen.append((done, total))
    )
    assert result.skipped == 1 and len(result.failures) == 1
    there, strips, strip, failed = (1, 18), (9, 18), (13, 18), (18, 18)
    assert seen == [there, strips, strip, (17, 18), failed]


def test_a_failing_writer_is_heard(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    write_raster(tmp_path / 'a.tif', picture(200, 100))

    def full(self, strip):
        raise OSError('No space left on device')

    monkeypatch.setattr(prediction_module.PartialMap, 'write', full)
    result = predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'o.tif')
    assert result.failures == [f'{tmp_path / "a.tif"}: No space left on device']


def test_previews_show_the_map_over_the_image(tmp_path):
    pytest.importorskip('rasterio')
    image = np.zeros((1500, 3000, 3), np.uint8)
    image[..., 0], image[:, 1500:, :] = 255, (0, 255, 0)
    write_raster(tmp_path / 'wide.tif', image)
    Image.fromarray(image[:100, 1450:1550]).save(tmp_path / 'small.png')
    for name in ('wide.tif', 'small.png'):
        out = tmp_path / 'out'
        files = predict_files(
            predictor(window=512, overlap=64), tmp_path / name, out, Layers(preview=True)
        ).files[tmp_path / name]
        with Image.open(files[-1]) as found:
            pixels = np.asarray(found)
        assert files[-1].name == f'{name.split(".")[0]}_preview.png'
        assert max(pixels.shape) <= 1080
        wide = name == 'wide.tif'
        maps = pixels[512:1024] if wide else pixels[:, 100:]  # below a wide image, else beside it
        for part, strength in ((pixels[:512] if wide else pixels[:, :100], 255), (maps, 228)):
            left, right = part[20, 10].astype(int), part[20, -10].astype(int)
            assert np.abs(left - (strength, 0, 0)).max() < 4
            assert np.abs(right - (0, strength, 0)).max() < 4


def test_a_shrunken_preview_has_no_classes_that_are_not_there(tmp_path):
    pytest.importorskip('rasterio')
    image = np.zeros((64, 2048, 3), np.uint8)
    image[:, ::2, 0] = image[:, 1::2, 2] = 255
    image[:16] = 7  # no data
    write_raster(tmp_path / 'a.tif', image, nodata=7)
    files = predict_files(
        predictor(model=Colours()), tmp_path / 'a.tif', tmp_path / 'out', Layers(preview=True)
    ).files[tmp_path / 'a.tif']
    with Image.open(files[-1]) as found:
        pixels = np.asarray(found)
    assert (pixels[:8] == 7).all() and (pixels[8:32, :, 1] == 0).all()


def test_a_journal_with_a_torn_line_is_read(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    out = tmp_path / 'out'
    predict_files(predictor(), tmp_path / 'a.png', out)
    journal = out / 'predictions.jsonl'
    journal.write_text(journal.read_text() + json.dumps({'image': 'b'})[:-4])
    assert predict_files(predictor(), tmp_path / 'a.png', out).skipped == 1


@contextmanager
def full_disk(size):
    """No file may grow beyond a size in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_leaves_no_map(tmp_path):
    """GDAL says nothing of tiles that it could not write when it closes a file."""
    rasterio = pytest.importorskip('rasterio')
    image = picture(600, 600)
    write_raster(tmp_path / 'a.tif', image)
    out, model = tmp_path / 'out', Colours()
    made = predictor(window=128, model=model)
    with full_disk(100_000):
        result = predict_files(made, tmp_path / 'a.tif', out)
    assert len(result.failures) == 1 and not list(out.rglob('*.npz'))
    with full_disk(300_000):  # a strip needs 150 kB, the four tiles of the map 1 MB
        result = predict_files(made, tmp_path / 'a.tif', out)
    assert len(result.failures) == 1 and not result.files
    assert 'a.tif cannot be written (' in result.failures[0]
    assert 'check the space on the disk' in result.failures[0]
    assert {path.name for path in out.iterdir()} == {'.a.tif.partial', 'predictions.jsonl'}
    result = predict_files(made, tmp_path / 'a.tif', out)
    assert not result.failures
    with rasterio.open(out / 'a.tif') as found:
        np.testing.assert_array_equal(found.read(1), image.argmax(-1))
    assert {path.name for path in out.iterdir()} == {'a.tif', 'predictions.jsonl'}


def test_a_disk_that_is_full_leaves_no_polygons(tmp_path):
    pytest.importorskip('fiona')
    Image.fromarray(picture(200, 200)).save(tmp_path / 'a.png')
    made, out = predictor(window=256), tmp_path / 'out'
    with full_disk(60_000):  # an empty GeoPackage has 96 kB
        result = predict_files(made, tmp_path / 'a.png', out, Layers(polygons=True))
    assert 'a.gpkg cannot be written (' in result.failures[0] and not result.files
    assert {path.name for path in out.iterdir()} == {'a.png', 'predictions.jsonl'}


def test_what_a_killed_run_left_of_a_file_is_removed(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    left = tmp_path / 'out' / '.a.png.part'
    left.mkdir(parents=True)
    (left / 'half').write_bytes(b'')
    assert not predict_files(predictor(), tmp_path / 'a.png', tmp_path / 'out').failures
    assert not left.exists()


def test_ground_control_points_are_kept(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    points = [
        rasterio.control.GroundControlPoint(row, column, 5 + column, 9 - row)
        for row, column in [(0, 0), (0, 40), (30, 0)]
    ]
    place = dict(gcps=points, crs='EPSG:4326', transform=rasterio.Affine.identity())
    write_raster(tmp_path / 'a.tif', picture(30, 40), **place)
    predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'out')
    with rasterio.open(tmp_path / 'out' / 'a.tif') as found:
        assert [(p.row, p.col, p.x, p.y) for p in found.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
        assert found.gcps[1].to_epsg() == 4326


def test_a_raster_with_a_palette_is_read_as_its_colours(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    indices = picture(40, 50)[..., 0]
    profile = dict(driver='GTiff', height=40, width=50, count=1, dtype='uint8')
    with rasterio.open(tmp_path / 'a.tif', 'w', **profile) as raster:
        raster.write_colormap(1, dict(enumerate(map(tuple, colours))))
        raster.write(indices, 1)
    image = colours[indices]
    for bands, chosen in ((None, [0, 1, 2]), ([3, 1, 2], [2, 0, 1]), ([2], [1, 1, 1])):
        to_rgb = RasterToRGB(bands)
        np.testing.assert_array_equal(
            read_rgb(tmp_path / 'a.tif', to_rgb).pixels, image[..., chosen]
        )
        with open_source(tmp_path / 'a.tif', to_rgb) as source:
            pixels, valid = source.read(8, 40, 0, 50)
        np.testing.assert_array_equal(pixels, image[8:, :, chosen])
        assert valid.all()
    files = predict_files(
        predictor(), tmp_path / 'a.tif', tmp_path / 'out', Layers(preview=True)
    ).files[tmp_path / 'a.tif']
    with rasterio.open(files[0]) as found:
        np.testing.assert_array_equal(found.read(1), predict_image(predictor(), image).labels)


def test_a_picture_that_pillow_refuses_is_read_by_rasterio(tmp_path, monkeypatch):
    rasterio = pytest.importorskip('rasterio')
    image = picture(40, 50)
    Image.fromarray(image).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 900)  # it stops at twice as many
    monkeypatch.setattr(sources_module, 'LARGE', 1000)
    predict_files(predictor(), tmp_path / 'a.png', tmp_path / 'out')
    with rasterio.open(tmp_path / 'out' / 'a.tif') as found:
        np.testing.assert_array_equal(found.read(1), predict_image(predictor(), image).labels)


def test_maps_in_a_sub_folder_of_the_images_are_no_images(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    (tmp_path / 'folder.tif').mkdir()
    for skipped in (0, 1):
        result = predict_files(predictor(), tmp_path, tmp_path / 'maps')
        assert list(result.files) == [tmp_path / 'a.png'] and not result.failures
        assert result.skipped == skipped
    (tmp_path / 'tiles').mkdir()
    (tmp_path / 'a.png').rename(tmp_path / 'tiles' / 'b.png')
    assert predict_files(predictor(), tmp_path / 'tiles', tmp_path).files  # maps above the images


def test_one_file_for_two_images_is_refused(tmp_path):
    for name in ('a.png', 'a_confidence.png'):
        Image.fromarray(picture(32, 32)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r'out.a_confidence\.png would be written for .* and for'):
        predict_files(predictor(), tmp_path, tmp_path / 'out', Layers(confidence=True))
    assert len(predict_files(predictor(), tmp_path, tmp_path / 'out').files) == 2


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    (tmp_path / 'out').write_text('')
    with pytest.raises(ValueError, match=r'out is a file: give a folder'):
        predict_files(predictor(), tmp_path / 'a.png', tmp_path / 'out')


def test_a_map_of_another_model_is_not_taken_for_done(tmp_path):
    """Of one image there may be several maps, and of one name maps of several images."""
    for index in range(2):
        (tmp_path / f'in{index}').mkdir()
        Image.fromarray(picture(32, 32, seed=index)).save(tmp_path / f'in{index}' / 'a.png')
    out = tmp_path / 'out'
    first, second = predictor(fingerprint='one'), predictor(fingerprint='two')
    image = tmp_path / 'in0' / 'a.png'
    predict_files(first, image, out / 'x.png')
    predict_files(second, image, out / 'y.png')
    assert predict_files(first, image, out / 'x.png').skipped == 1
    assert predict_files(second, image, out / 'x.png').skipped == 0
    for index in (0, 1, 0):
        assert predict_files(first, tmp_path / f'in{index}', out).skipped == 0
    colours = Predictor(Blur().eval(), CLASSES, PALETTE[::-1], 32, fingerprint='one')
    assert predict_files(colours, tmp_path / 'in0', out).skipped == 0


def test_the_suffix_of_a_map_may_be_in_capitals(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.jpg')
    files = predict_files(
        predictor(), tmp_path / 'a.jpg', tmp_path / 'MAP.PNG', Layers(probabilities=True)
    ).files[tmp_path / 'a.jpg']
    assert [file.name for file in files] == ['MAP.PNG', 'MAP_probabilities.npy']
    assert np.load(files[1]).shape == (3, 32, 32)


@pytest.mark.parametrize('count', [1, 256])
def test_classes_that_a_map_cannot_hold_are_refused(count):
    model = Blur()
    model.num_classes = count
    with pytest.raises(ValueError, match=f'has {count} classes, and maps are made of 2 to 255'):
        Predictor(model, list('x' * count), [[0, 0, 0]] * count, 32)


def predict_large(folder: Path, side: int) -> None:
    """Predict a raster of so many pixels a side, and write by how many MB the process grew."""
    import rasterio

    transform = rasterio.Affine(0.1, 0, 4e5, 0, -0.1, 5.8e6)
    profile = dict(driver='GTiff', width=side, height=side, count=3, dtype='uint8', tiled=True)
    profile |= dict(sparse_ok=True, crs='EPSG:32633', transform=transform)
    with rasterio.open(folder / 'large.tif', 'w', **profile) as raster:
        block = np.random.default_rng(0).integers(0, 255, (3, 256, 256), np.uint8)
        for at in range(0, side - 255, 256):  # the diagonal; other blocks do not exist
            raster.write(block, window=rasterio.windows.Window(at, at, 256, 256))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = predictor(window=512, model=Colours(), overlap=32, batch_size=1)
    result = predict_files(made, folder / 'large.tif', folder / 'map.tif', memory=16 * 2**20)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert not result.failures, result.failures
    with rasterio.open(folder / 'map.tif') as found:
        assert found.shape == (side, side)
        last = found.read(1, window=rasterio.windows.Window(side - 512, side - 512, 512, 512))
    assert (last < 3).all() and len(np.unique(last)) == 3
    (folder / 'grown').write_text(str(grown // 1024))


@pytest.mark.slow
def test_a_large_raster_needs_a_fixed_memory(tmp_path):
    """64 million pixels: the sums alone of the whole map would be 768 MB."""
    pytest.importorskip('rasterio')
    log = tmp_path / 'log'
    processes.finish(processes.start(predict_large, tmp_path, 8000, log=log), log)
    assert int((tmp_path / 'grown').read_text()) < 240  # 182 and not a byte for each pixel more


class Many(nn.Module):
    """200 classes, of which each pixel shows one."""

    num_classes = 200

    def __init__(self):
        super().__init__()
        self.data_preprocessor = SegDataPreProcessor(bgr_to_rgb=True)
        self.place = nn.Parameter(torch.zeros(()))

    def inference(self, inputs, metas):
        ids = torch.arange(200.0)[None, :, None, None]
        return -(inputs[:, :1] - ids).abs()


def predict_many(folder: Path, side: int) -> None:
    """Predict the probabilities of 200 classes, with few files left to open; see above."""
    import rasterio

    write_raster(folder / 'a.tif', np.minimum(picture(side, side), 199), tiled=True)
    made = Predictor(
        Many().eval(), list(map(str, range(200))), [[9, 9, 9]] * 200, 128, overlap=0, batch_size=1
    )
    opened = len(list(Path('/dev/fd').iterdir()))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 12, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layers = Layers(probabilities=True)
    result = predict_files(made, folder / 'a.tif', folder / 'map.tif', layers, memory=2**24)
    assert not result.failures, result.failures
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    (folder / f'grown_{side}').write_text(str(grown // 1024))
    with rasterio.open(folder / 'map_probabilities.tif') as found:
        assert (found.count, found.shape) == (200, (side, side))
        shares = found.read(window=rasterio.windows.Window(side - 9, side - 9, 9, 9))
    with rasterio.open(folder / 'map.tif') as found:
        ids = found.read(1, window=rasterio.windows.Window(side - 9, side - 9, 9, 9))
    assert (shares.argmax(0) == ids).all() and len(np.unique(ids)) > 3


def test_the_probabilities_of_many_classes_need_a_fixed_memory_and_few_files(tmp_path):
    """Of 1024 px they are 210 MB, as they are summed up 840 MB."""
    for side in (512, 1024):
        log = tmp_path / f'log_{side}'
        processes.finish(processes.start(predict_many, tmp_path, side, log=log), log)
    grown = [int((tmp_path / f'grown_{side}').read_text()) for side in (512, 1024)]
    assert grown[1] < 450 and grown[1] < grown[0] + 100, grown


def predict_both(folder, out):
    for name in 'ba':
        predict_files(predictor(window=64), folder / f'{name}.png', out)


def test_a_second_prediction_of_a_map_is_refused_and_of_another_is_not(tmp_path):
    """The map of the first stays, whatever settings the second has."""
    for name in 'ab':
        Image.fromarray(picture(32, 32)).save(tmp_path / f'{name}.png')
    out = tmp_path / 'out'

    with held(out / prediction_module.LOCK, 'the first', ['a.png']):
        assert processes.exit_code(predict_both, tmp_path, out, log=tmp_path / 'log') == 1
    told = f'InUseError: A prediction into {out} is already under way (a.png)'
    assert told in (tmp_path / 'log').read_text()
    assert {path.name for path in out.iterdir()} == {'b.png', 'predictions.jsonl'}
    predict_files(predictor(window=64), tmp_path / 'a.png', out)
    assert {path.name for path in out.iterdir()} == {'a.png', 'b.png', 'predictions.jsonl'}
