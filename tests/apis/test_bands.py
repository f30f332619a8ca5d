# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Maps and exports of networks for more bands than three."""

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_semi_rs.apis import Layers, load_predictor, predict_files, predict_image
from mmseg_semi_rs.apis.export import export_network, take_network
from mmseg_semi_rs.apis.onnx_export import export_onnx, needed
from tests._support.bands import RASTER, RGB, STATISTICS, stack, write_bands
from tests._support.trained_models import mean_teacher, resnet, write_model

rasterio = pytest.importorskip('rasterio')


@pytest.fixture
def model(tmp_path):
    """A network whose map depends on what lies in a pixel's surroundings, in each of five bands."""
    student = resnet()
    student['backbone']['in_channels'] = 5
    cfg = mean_teacher(student, (32, 32))
    cfg['data_preprocessor'] = dict(
        type='SemiDataPreprocessor', size=(32, 32), rgb=RGB, **STATISTICS
    )
    pipeline = [
        dict(type='LoadBands', **RASTER),
        dict(type='LoadAnnotations'),
        dict(type='PackSemiInputs'),
    ]
    return write_model(
        tmp_path / 'model',
        cfg,
        raster=RASTER,
        crop_size=(32, 32),
        test_dataloader=dict(dataset=dict(pipeline=pipeline)),
    )


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def test_files_arrays_and_the_pipeline_of_tests_give_one_map(model, tmp_path):
    predictor = load_predictor(*model)
    bands = stack(60, 80)
    path = write_bands(tmp_path / 'scene.tif', bands)
    layers = Layers(probabilities=True, preview=True)
    result = predict_files(predictor, path, tmp_path / 'maps', layers)
    assert not result.failures
    assert list(result.bands) == ['bands 1, 2, 3, 4, 5 of 5']
    probabilities = read(tmp_path / 'maps/scene_probabilities.tif')
    found = predict_image(predictor, bands.transpose(1, 2, 0))
    np.testing.assert_array_equal(found.probabilities, probabilities)

    small = stack(32, 32, seed=1)
    levels = predictor.to_rgb(small)
    mean, std = (torch.tensor(STATISTICS[key]).view(5, 1, 1) for key in ('mean', 'std'))
    images = (torch.from_numpy(levels).permute(2, 0, 1) - mean) / std
    with torch.no_grad():
        logits = predictor.model.predictors['teacher'].encode_decode(
            images[None], [dict(ori_shape=(32, 32), img_shape=(32, 32), pad_shape=(32, 32))]
        )
    expected = (logits.softmax(1)[0] * 255).round().numpy()
    found = predict_image(predictor, small.transpose(1, 2, 0)).probabilities
    np.testing.assert_allclose(found, expected, atol=1)
    small[4] = 0  # each band counts
    assert (predict_image(predictor, small.transpose(1, 2, 0)).probabilities != found).any()


def test_a_preview_shows_red_green_and_blue(model, tmp_path):
    predictor = load_predictor(*model)
    bands = stack(40, 40)
    bands[:3] = np.array([0, 500, 1000], np.float32)[:, None, None]  # blue, green, red
    bands[3:] = np.nan  # no picture shows them
    result = predict_files(
        predictor, write_bands(tmp_path / 'a.tif', bands), tmp_path / 'out', Layers(preview=True)
    )
    assert not result.failures
    picture = np.asarray(Image.open(tmp_path / 'out/a_preview.png'))[:40, :40]
    assert (picture == [255, 128, 0]).all()


def test_files_of_other_bands_fail_in_one_sentence_and_others_go_on(model, tmp_path):
    predictor = load_predictor(*model)
    scenes = tmp_path / 'scenes'
    write_bands(scenes / 'a.tif', stack())
    write_bands(scenes / 'b.tif', stack()[:4])
    result = predict_files(predictor, scenes, tmp_path / 'out')
    assert [path.name for path in result.files] == ['a.tif']
    (failure,) = result.failures
    assert 'b.tif has 4 bands where files of 5 are read' in failure
    with pytest.raises(ValueError, match='takes 5 bands, but --bands names 3'):
        load_predictor(*model, bands=[1, 2, 3])


def test_the_same_bands_in_another_order_of_a_file(model, tmp_path):
    bands = stack()
    first = write_bands(tmp_path / 'first.tif', bands)
    turned = write_bands(tmp_path / 'turned.tif', bands[[5 - 1, 3, 2, 1, 0, 0]])
    straight, moved = (
        load_predictor(*model),
        load_predictor(*model, bands=[6, 4, 3, 2, 1]),
    )
    assert moved.to_rgb.rgb == [3, 4, 6]
    predict_files(straight, first, tmp_path / 'out/first.tif')
    predict_files(moved, turned, tmp_path / 'out/turned.tif')
    np.testing.assert_array_equal(
        read(tmp_path / 'out/first.tif'), read(tmp_path / 'out/turned.tif')
    )


def test_a_network_of_bands_is_exported_with_its_raster(model, tmp_path):
    taken = take_network(*model)
    made = export_network(taken, tmp_path / 'out', 'five')
    assert made.needs == ('LoadBands',)
    bands = stack(32, 32).transpose(1, 2, 0)
    again = load_predictor(made.config, made.checkpoint)
    assert again.to_rgb.bands == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(
        predict_image(again, bands).labels, predict_image(load_predictor(*model), bands).labels
    )


@pytest.mark.slow
def test_onnx_takes_all_bands_and_says_how_they_are_read(model, tmp_path):
    for name in needed():
        pytest.importorskip(name)
    taken = take_network(*model)
    made = export_onnx(taken, tmp_path / 'five.onnx')
    assert made.checked[0] == (1, 5, 32, 32)
    runtime = importlib.import_module('onnxruntime').InferenceSession(str(made.path))
    about = runtime.get_modelmeta().custom_metadata_map
    assert about['input'] == 'images (B, 5, H, W), float32, bands, 0-255'
    assert json.loads(about['raster']) == RASTER
    predictor = load_predictor(*model)
    levels = predictor.to_rgb(stack(32, 32)).transpose(2, 0, 1)[None]
    found = runtime.run(None, {'images': levels})[0]
    expected = predictor.probabilities(torch.from_numpy(levels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
