# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""projects/bands: a class that RGB cannot show, and the table of who finds it."""

import importlib

import numpy as np
import pytest
from PIL import Image

from tests._support.processes import ROOT

rasterio = pytest.importorskip('rasterio')


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'projects' / 'bands')
    return importlib.import_module('compare')


def test_turf_is_grass_in_rgb_and_none_in_the_infrared(compare, tmp_path):
    compare.fabricate(tmp_path, 7, scenes=6, labelled=6, unseen=1, size=128)
    apart = []
    for path in sorted((tmp_path / 'images').glob('*.tif')):
        with rasterio.open(path) as raster:
            bands = raster.read().astype(float)
        mask = np.asarray(Image.open(tmp_path / 'masks' / f'{path.stem}.png'))
        grass, turf = (mask == compare.CLASSES.index(name) for name in ('grass', 'turf'))
        if min(grass.sum(), turf.sum()) < 300:
            continue
        spread = bands[:, grass].std(1)
        apart.append(np.abs(bands[:, grass].mean(1) - bands[:, turf].mean(1)) / spread)
    assert len(apart) >= 3
    rgb, infrared = np.mean(apart, 0)[:3], np.mean(apart, 0)[3]
    assert rgb.max() < 0.7
    assert infrared > 4


def test_the_iou_of_maps(compare, tmp_path):
    for folder in ('maps', 'masks'):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.array([[0, 0, 1, 255]], np.uint8)).save(tmp_path / 'masks/a.png')
    Image.fromarray(np.array([[0, 1, 1, 4]], np.uint8)).save(tmp_path / 'maps/a.tif')
    found = compare.evaluate(tmp_path / 'maps', tmp_path / 'masks')
    assert found[:2] == [50.0, 50.0]
    table = compare.table({'RGB/supervised': [[10.0] * 5, [20.0] * 5]})
    assert '| RGB | supervised | 15.0 | 10.0, 20.0 |' in table


@pytest.mark.slow
def test_one_command_makes_the_table(compare, tmp_path, capsys):
    words = ['--out', tmp_path, '--seeds', 0, '--methods', 'supervised', '--scenes', 9]
    compare.main([str(word) for word in (*words, '--unseen', 2, '--iters', 2)])
    printed = capsys.readouterr().out
    assert '| RGB | supervised |' in printed
    assert '| 5 bands | supervised |' in printed
    assert (tmp_path / 'results.md').read_text() in printed
