# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""``rsseg init`` on a list of addresses: rasters are fetched once, and trained on here."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image

from tests._support.bands import stack, write_bands
from tests._support.rasters import picture, write_raster
from tests._support.tiny_training import load_tool

rasterio = pytest.importorskip('rasterio')
TOOL = load_tool('init_dataset')


class Remote:
    """Images on a server, masks of most of them here, and the list of the addresses."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.listed = folder / 'town.txt'
        self.names = [f's{index}' for index in range(8)]
        (folder / 'masks').mkdir()
        for name in self.names[:6]:
            ids = (np.indices((64, 64))[1] // 16 % 3).astype(np.uint8)
            Image.fromarray(ids).save(folder / 'masks' / f'{name}.png')
        self.list(*(f'{name}.tif' for name in self.names))

    def list(self, *files):
        self.listed.write_text(''.join(f'{self.server.address}/{file}\n' for file in files))

    def init(self, *options):
        """Exit code, and the folder of the images that the config trains on."""
        words = [self.listed, self.folder / 'masks', '--out', self.folder / 'out', *options]
        code = 0
        try:
            TOOL.main([str(word) for word in words])
        except SystemExit as leave:
            code = leave.code
        configs = list((self.folder / 'out').glob('*.py'))
        return code, Path(Config.fromfile(configs[0]).image_dir) if configs else None


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    monkeypatch.setenv('GDAL_HTTP_MAX_RETRY', '1')
    monkeypatch.setenv('CPL_VSIL_CURL_NON_CACHED', '/vsicurl?')  # as in a process of its own
    return Remote(server, tmp_path)


def test_rasters_elsewhere_become_tiles_here(remote, capsys):
    pixels = {name: picture(64, 64, seed=at) for at, name in enumerate(remote.names)}
    for name, image in pixels.items():
        write_raster(remote.server.folder / f'{name}.tif', image)
    remote.list(*(f'{name}.tif' for name in remote.names), 'gone.tif')
    remote.server.fail('slow', 1, 3)
    code, images = remote.init()
    told = capsys.readouterr().out
    assert code == 1  # one file is left out, and named
    assert f'{remote.server.address}/gone.tif cannot be opened' in told and '404' in told
    for name, image in pixels.items():
        with Image.open(images / f'{name}.png') as fetched:
            np.testing.assert_array_equal(fetched, image)

    asked = len(remote.server.requests)
    written = (images / 's1.png').stat().st_mtime_ns
    changed = picture(64, 64, seed=99)
    write_raster(remote.server.folder / 's0.tif', changed)
    remote.list(*(f'{name}.tif' for name in remote.names))
    assert remote.init()[0] == 0 and len(remote.server.requests) > asked
    with Image.open(images / 's0.png') as fetched:
        np.testing.assert_array_equal(fetched, changed)
    assert (images / 's1.png').stat().st_mtime_ns == written  # what has not changed is kept


def test_all_bands_of_rasters_elsewhere_are_fetched_too(remote):
    for at, name in enumerate(remote.names):
        write_bands(remote.server.folder / f'{name}.tif', stack(64, 64, seed=at))
    code, images = remote.init('--bands', 'all', '--classes', 'a', 'b', 'c')
    assert code == 0
    for at, name in enumerate(remote.names):
        with rasterio.open(images / f'{name}.tif') as fetched:
            assert fetched.driver == 'GTiff'
            np.testing.assert_array_equal(fetched.read(), stack(64, 64, seed=at))


def test_a_server_that_fails_meanwhile_leaves_images_out(remote, capsys, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 3000, 3), np.uint8)
    for name in remote.names:
        pixels = picture(64, 64) if name != 's7' else noise  # too much for what was read to look
        write_raster(remote.server.folder / f'{name}.tif', pixels)
    look = TOOL.survey_folder

    def then_fails(*words, **more):
        survey = look(*words, **more)
        remote.server.fail('reset', 1, 999)
        return survey

    monkeypatch.setattr(TOOL, 'survey_folder', then_fails)
    code, _ = remote.init()
    told = capsys.readouterr().out
    assert code == 1 and 's7' in told.partition('left out:')[2]


def test_what_is_no_list_of_addresses_is_refused(remote, capsys):
    assert remote.init()[0] == 2  # none is there
    assert 's0.tif cannot be opened' in capsys.readouterr().err
    remote.listed.write_text(f'{remote.server.address}/a.tif\nhere/b.tif\n')
    assert remote.init()[0] == 2
    assert 'names here/b.tif, which is no address' in capsys.readouterr().err
    for year in ('2023', '2024'):
        (remote.server.folder / year).mkdir()
        write_raster(remote.server.folder / year / 'b.tif', picture(64, 64))
    remote.list('2023/b.tif', '2024/b.tif')
    assert remote.init()[0] == 2
    assert 'have one name' in capsys.readouterr().err
    remote.listed = f'{remote.server.address}/2023/b.tif'
    assert remote.init()[0] == 2
    assert 'is an address: write it into a text file' in capsys.readouterr().err


def test_a_list_of_a_data_set_names_no_addresses(tmp_path):
    (tmp_path / 'list.txt').write_text('https://host/a.tif\n')
    made = dict(type='FolderDataset', classes=['a', 'b'], pipeline=[], ann_file='list.txt')
    with pytest.raises(ValueError, match=r'names https://host/a\.tif, an address'):
        DATASETS.build(dict(made, data_root=str(tmp_path), data_prefix=dict(img_path='')))
