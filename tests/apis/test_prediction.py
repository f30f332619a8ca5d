# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Windows, strips and files of a prediction, with networks whose answer is known."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmseg.models import SegDataPreProcessor
from PIL import Image
from torch import nn

from mmseg_semi_rs.apis import Layers, Predictor, predict_files, predict_image
from mmseg_semi_rs.apis import mosaic as mosaic_module
from mmseg_semi_rs.apis import prediction as prediction_module
from mmseg_semi_rs.apis.grid import Axis
from mmseg_semi_rs.apis.maps import MapWriter
from mmseg_semi_rs.apis.mosaic import Mosaic
from mmseg_semi_rs.apis.sources import PixelSource
from tests.tools.tiny_training import ROOT

CLASSES = ['red', 'green', 'blue']
PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]


class Blur(nn.Module):
    """Class logits are a 5 x 5 mean of the colours: a network that sees 2 px around."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.data_preprocessor = SegDataPreProcessor(
            mean=[0.0] * 3, std=[32.0] * 3, bgr_to_rgb=True
        )
        self.conv = nn.Conv2d(3, 3, 5, padding=2, padding_mode='reflect', bias=False)
        nn.init.zeros_(self.conv.weight)
        for colour in range(3):
            nn.init.constant_(self.conv.weight[colour, colour], 1 / 25)
        self.windows = 0

    def inference(self, inputs, metas):
        self.windows += len(inputs)
        assert len(metas) == len(inputs)
        return self.conv(inputs)


class Colours(Blur):
    """Class logits are the colours themselves, which costs nothing."""

    def inference(self, inputs, metas):
        return inputs


def predictor(window=32, model=None, **settings):
    torch.manual_seed(0)
    return Predictor((model or Blur()).eval(), CLASSES, PALETTE, window, **settings)


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width]


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
    image = picture(10, 20)
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


def test_pixels_that_are_no_rgb_are_refused():
    with pytest.raises(ValueError, match=r'not \(8, 8, 4\) uint8'):
        predict_image(predictor(), np.zeros((8, 8, 4), np.uint8))


# Files.


def write_raster(path, image, **more):
    rasterio = pytest.importorskip('rasterio')
    image = image[..., None] if image.ndim == 2 else image
    profile = dict(
        driver='GTiff',
        height=image.shape[0],
        width=image.shape[1],
        count=image.shape[2],
        dtype=str(image.dtype),
        crs='EPSG:32633',
        transform=rasterio.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5800000),
    )
    with rasterio.open(path, 'w', **{**profile, **more}) as raster:
        raster.write(image.transpose(2, 0, 1))
    return path


def test_a_raster_becomes_a_cloud_optimised_geotiff_of_its_place(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    image = picture(700, 600)
    image[:40, :50] = 0
    write_raster(tmp_path / 'city.tif', image, nodata=0)
    made = predictor(window=128)
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
        assert [found.colormap(1)[index][:3] for index in range(3)] == [*map(tuple, PALETTE)]
        assert found.colormap(1)[255][3] == 0
        assert found.tags(1)['2'] == 'blue'
        labels = found.read(1)
    with rasterio.open(files[1]) as found:
        assert found.nodata == 0 and found.scales == (1 / 255,)
        confidence = found.read(1)
    with rasterio.open(files[2]) as found:
        assert found.descriptions == tuple(CLASSES) and found.count == 3
        shares = found.read()
    assert (labels[~valid] == 255).all() and (confidence[~valid] == 0).all()
    assert (shares[:, ~valid] == 0).all()
    assert (labels == expected.labels)[valid].all()
    assert (confidence == expected.confidence)[valid].all()
    assert (shares == expected.probabilities)[:, valid].all()
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        [*(file.name for file in files), 'predictions.jsonl']
    )


def test_polygons_follow_the_map(tmp_path):
    fiona = pytest.importorskip('fiona')
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0] = 255
    image[:, 48:] = (0, 255, 0)
    image[:8, :8] = 1  # no data
    write_raster(tmp_path / 'a.tif', image, nodata=1)
    result = predict_files(
        predictor(), tmp_path / 'a.tif', tmp_path / 'm.tif', Layers(polygons=True)
    )
    assert result.files[tmp_path / 'a.tif'] == [tmp_path / 'm.tif', tmp_path / 'm.gpkg']
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
    assert area[1] == pytest.approx(64 * 48 * pixel) and area[0] == pytest.approx(
        (64 * 48 - 64) * pixel
    )


def test_bands_are_chosen_and_stretched(tmp_path):
    pytest.importorskip('rasterio')
    from mmseg_semi_rs.datasets.raster_bands import RasterToRGB

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


def test_a_killed_prediction_goes_on_and_ends_bit_by_bit_the_same(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    write_raster(tmp_path / 'a.tif', picture(200, 150))
    layers = Layers(confidence=True, probabilities=True)
    predict_files(predictor(), tmp_path / 'a.tif', tmp_path / 'whole' / 'a.tif', layers, memory=1)

    class Killed(BaseException):
        pass

    finish = mosaic_module._Sums.finish

    def kill(self, number, *rest):
        if number == stop:  # of the loop below
            raise Killed
        return finish(self, number, *rest)

    out = tmp_path / 'out' / 'a.tif'
    for stop in (3, 9, 11):  # noqa: B007
        with monkeypatch.context() as patch:
            patch.setattr(mosaic_module._Sums, 'finish', kill)
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
        assert max(pixels.shape) <= 1024
        left, right = pixels[20, 10].astype(int), pixels[20, -10].astype(int)
        assert np.abs(left - (228, 0, 0)).max() < 4 and np.abs(right - (0, 228, 0)).max() < 4


def test_a_journal_with_a_torn_line_is_read(tmp_path):
    Image.fromarray(picture(32, 32)).save(tmp_path / 'a.png')
    out = tmp_path / 'out'
    predict_files(predictor(), tmp_path / 'a.png', out)
    journal = out / 'predictions.jsonl'
    journal.write_text(journal.read_text() + json.dumps({'image': 'b'})[:-4])
    assert predict_files(predictor(), tmp_path / 'a.png', out).skipped == 1


MEMORY_PROBE = """
import resource, sys
import numpy as np, rasterio, torch
sys.path.insert(0, sys.argv[1])
import mmseg_semi_rs
from tests.apis.test_prediction import CLASSES, PALETTE, Colours
from mmseg_semi_rs.apis import Predictor, predict_files
torch.set_num_threads(1)
folder, side = sys.argv[2], int(sys.argv[3])
with rasterio.open(
    f'{folder}/{side}.tif', 'w', driver='GTiff', width=side, height=side, count=3, dtype='uint8',
    tiled=True, sparse_ok=True, crs='EPSG:32633',
    transform=rasterio.Affine(0.1, 0, 4e5, 0, -0.1, 5.8e6),
) as raster:
    block = np.random.default_rng(0).integers(0, 255, (3, 256, 256), np.uint8)
    for at in range(0, side - 255, 256):  # the diagonal; other blocks do not exist
        raster.write(block, window=rasterio.windows.Window(at, at, 256, 256))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predictor = Predictor(Colours().eval(), CLASSES, PALETTE, 1024, overlap=32, batch_size=1)
result = predict_files(predictor, f'{folder}/{side}.tif', f'{folder}/map.tif', memory=64 * 2**20)
assert not result.failures, result.failures
with rasterio.open(f'{folder}/map.tif') as found:
    assert found.shape == (side, side)
    last = found.read(1, window=rasterio.windows.Window(side - 512, side - 512, 512, 512))
    assert (last < 3).all()
    assert len(np.unique(last)) == 3
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_raster_of_20000_pixels_needs_a_fixed_memory(tmp_path):
    """400 million pixels: the sums alone of the whole map would be 4.8 GB."""
    pytest.importorskip('rasterio')
    outcome = subprocess.run(
        [sys.executable, '-c', MEMORY_PROBE, str(ROOT), str(tmp_path), '20000'],
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert int(outcome.stdout) < 700  # MB
