# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The maps of docs/export.md, run as they are written."""

import re
import sys

import numpy as np
import pytest
import torch

from tests._support.processes import ROOT


@pytest.mark.parametrize('engine', ['dask', 'ray'])
def test_windows_of_an_exported_network_make_the_map_of_the_whole(engine, tmp_path, monkeypatch):
    pytest.importorskip(engine)
    rasterio = pytest.importorskip('rasterio')
    page = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')
    code = dict(re.findall(r'```python\n# (\w+)\.py\n(.*?)```', page, re.DOTALL))
    windows = code['windows'].replace('SIDE, MARGIN = 512, 64', 'SIDE, MARGIN = 48, 8')
    assert windows != code['windows']
    (tmp_path / 'windows.py').write_text(windows)
    (tmp_path / 'exported').mkdir()

    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 5, padding=2).eval()
    sides = {0: torch.export.Dim('b'), 2: torch.export.Dim('h'), 3: torch.export.Dim('w')}
    program = torch.export.export(network, (torch.rand(2, 3, 40, 50),), dynamic_shapes=(sides,))
    torch.export.save(program, tmp_path / 'exported' / 'net.pt2')
    pixels = np.random.default_rng(0).integers(0, 256, (3, 75, 100), np.uint8)
    profile = dict(driver='GTiff', width=100, height=75, count=3, dtype='uint8')
    with rasterio.open(tmp_path / 'city.tif', 'w', crs='EPSG:32633', **profile,
                       transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5.8e6)) as raster:  # fmt: skip
        raster.write(pixels)

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))  # of Ray's own processes
    monkeypatch.delitem(sys.modules, 'windows', raising=False)
    exec(compile(code[f'map_by_{engine}'], engine, 'exec'), {'__name__': engine})
    sys.modules.pop('windows', None)

    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels.astype(np.float32))[None])[0].argmax(0)
    with rasterio.open('map.tif') as found:
        np.testing.assert_array_equal(found.read(1), expected.numpy())
