# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters on a web server, and STAC items: predicted as if they lay here, in ranges."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmseg_semi_rs.apis import predict_files
from mmseg_semi_rs.rasters.remote import gdal_name, is_remote, item_asset, stand_in
from tests._support.blur import Blur, predictor
from tests._support.rasters import picture, write_raster

rasterio = pytest.importorskip('rasterio')


def write_tiled(path, pixels, **more):
    """A GeoTIFF with a place on Earth, tiles of 64 px, and no data in a corner."""
    marked = pixels.copy()
    marked[:20, :30] = 0
    shape = dict(height=pixels.shape[0], width=pixels.shape[1], count=3, dtype='uint8', nodata=0)
    place = dict(crs='EPSG:32633', transform=rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6))
    tiles = dict(tiled=True, blockxsize=64, blockysize=64, compress='deflate')
    with rasterio.open(path, 'w', driver='GTiff', **shape, **place, **tiles, **more) as raster:
        raster.write(marked.transpose(2, 0, 1))


def test_the_map_is_that_of_the_local_file(server, tmp_path):
    rng = np.random.default_rng(0)
    write_tiled(server.folder / 'city one.tif', rng.integers(1, 255, (700, 400, 3), np.uint8))
    local = predict_files(predictor(), server.folder / 'city one.tif', tmp_path / 'local')
    address = f'{server.address}/city%20one.tif'
    remote = predict_files(predictor(), address, tmp_path / 'remote')
    assert not remote.failures
    (files,) = remote.files.values()
    assert files[0] == tmp_path / 'remote' / 'city one.tif'
    assert files[0].read_bytes() == next(iter(local.files.values()))[0].read_bytes()
    with rasterio.open(files[0]) as written:
        assert written.crs == 'EPSG:32633' and (written.read(1)[:20, :30] == 255).all()
    # in ranges: no request takes the file whole
    sizes = [
        int(end) - int(begin) for begin, end in (asked.split('-') for asked in server.requests)
    ]
    assert len(sizes) > 2 and max(sizes) < (server.folder / 'city one.tif').stat().st_size / 2
    model = Blur()
    again = predict_files(predictor(model=model), address, tmp_path / 'remote')
    assert again.skipped == 1 and model.windows == 0
    write_tiled(server.folder / 'city one.tif', picture(700, 400))
    other = predict_files(predictor(model=model), address, tmp_path / 'remote')
    assert other.skipped == 0 and model.windows > 0


def test_a_cut_connection_and_a_busy_server_are_tried_again(server, tmp_path):
    write_tiled(server.folder / 'a.tif', picture(200, 200))
    predict_files(predictor(), server.folder / 'a.tif', tmp_path / 'local')
    server.fail(503, 2, 3)
    result = predict_files(predictor(), f'{server.address}/a.tif', tmp_path / 'out')
    assert not result.failures and len(server.requests) > 3
    assert (tmp_path / 'out' / 'a.tif').read_bytes() == (tmp_path / 'local' / 'a.tif').read_bytes()


@pytest.mark.parametrize('fault', [500, 'reset'])
def test_a_server_that_fails_for_good_is_named(server, tmp_path, monkeypatch, fault):
    monkeypatch.setenv('GDAL_HTTP_MAX_RETRY', '1')
    rng = np.random.default_rng(0)
    write_tiled(server.folder / 'a.tif', rng.integers(1, 255, (600, 600, 3), np.uint8))
    address = f'{server.address}/a.tif'
    stand_in(address, tmp_path / 'out')
    server.fail(fault, len(server.requests) + 1, 999)  # it can be opened once more
    result = predict_files(predictor(), address, tmp_path / 'out')
    (said,) = result.failures
    assert said.startswith(address) and '.vrt' not in said
    server.recover()
    assert not predict_files(predictor(), address, tmp_path / 'out').failures


def test_a_file_that_changes_while_it_is_read_is_not_believed(server, tmp_path):
    write_tiled(server.folder / 'a.tif', picture(300, 200))

    class Changing(Blur):
        def inference(self, inputs, metas):
            if not self.windows:
                write_tiled(server.folder / 'a.tif', picture(300, 200, seed=1))
            return super().inference(inputs, metas)

    address = f'{server.address}/a.tif'
    result = predict_files(predictor(model=Changing()), address, tmp_path / 'out')
    assert result.failures == [f'{address} has changed while it was read: predict it again.']
    assert not (tmp_path / 'out' / 'a.tif').exists()
    assert not predict_files(predictor(), address, tmp_path / 'out').failures


def test_what_is_not_there_is_said(server, tmp_path):
    address = f'{server.address}/none.tif'
    with pytest.raises(FileNotFoundError, match=f'{address} cannot be opened .*404'):
        predict_files(predictor(), address, tmp_path / 'out')
    with pytest.raises(ValueError, match=r'ftp://host/a\.tif is of a kind that is not known'):
        predict_files(predictor(), 'ftp://host/a.tif', tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='cannot be opened'):
        predict_files(predictor(), 'http://127.0.0.1:9/a.tif', tmp_path / 'out')


@pytest.mark.parametrize(
    'address, name',
    [
        ('s3://bucket/a/b.tif', '/vsis3/bucket/a/b.tif'),
        ('gs://bucket/b.tif', '/vsigs/bucket/b.tif'),
        ('az://box/b.tif', '/vsiaz/box/b.tif'),
        ('/vsizip/a.zip/b.tif', '/vsizip/a.zip/b.tif'),
    ],
)
def test_addresses_are_given_to_gdal_by_its_own_names(address, name):
    assert is_remote(address) and gdal_name(address) == name
    assert not is_remote('a/b.tif') and not is_remote(r'C:\a.tif')


def test_what_the_environment_says_of_retries_counts(monkeypatch):
    monkeypatch.delenv('GDAL_HTTP_MAX_RETRY', raising=False)
    assert 'max_retry=4&' in gdal_name('https://host/a.tif')
    monkeypatch.setenv('GDAL_HTTP_MAX_RETRY', '9')
    assert 'max_retry' not in gdal_name('https://host/a.tif')


def test_an_asset_of_a_stac_item_is_predicted(server, tmp_path):
    write_tiled(server.folder / 'rgb.tif', picture(70, 80))
    tiff = 'image/tiff; application=geotiff; profile=cloud-optimized'
    item = {
        'type': 'Feature',
        'stac_version': '1.0.0',
        'assets': {
            'thumb': {'href': 'x.png', 'type': 'image/png', 'roles': ['thumbnail']},
            'visual': {'href': './rgb.tif', 'type': tiff},
            'nir': {'href': 'nir.tif', 'type': tiff, 'roles': ['data']},
            'meta': {'href': 'meta.xml', 'type': 'application/xml'},
        },
    }
    (server.folder / 'item.json').write_text(json.dumps(item))
    for place in (f'{server.address}/item.json', server.folder / 'item.json'):
        out = tmp_path / str(len(str(place)))
        result = predict_files(predictor(), place, out)
        assert not result.failures and (out / 'rgb.tif').is_file()
    assert item_asset(server.folder / 'item.json', 'nir') == str(server.folder / 'nir.tif')
    del item['assets']['visual']['type'], item['assets']['visual']
    item['assets']['red'] = {'href': 'red.tif', 'roles': ['data']}
    (server.folder / 'item.json').write_text(json.dumps(item))
    with pytest.raises(ValueError, match='has the assets thumb, nir, meta, red: name the one'):
        predict_files(predictor(), server.folder / 'item.json', tmp_path / 'out')
    (server.folder / 'item.json').write_text('[1]')
    odd = {'a': {'href': 'a.tif', 'type': None, 'roles': None}, 'b': {}, 'c': []}
    (server.folder / 'odd.json').write_text(json.dumps({'assets': odd}))
    assert item_asset(server.folder / 'odd.json') == str(server.folder / 'a.tif')
    with pytest.raises(ValueError, match='has the assets a: name'):
        item_asset(server.folder / 'odd.json', 'b')
    with pytest.raises(ValueError, match='is no STAC item'):
        item_asset(server.folder / 'item.json')


def test_a_mosaic_of_addresses_is_a_file_as_others(server, tmp_path):
    """What GDAL's VRT joins, here two halves on the server, is one image."""
    pixels = picture(64, 128)
    write_raster(tmp_path / 'whole.tif', pixels)
    write_raster(server.folder / 'left.tif', pixels[:, :64])
    write_raster(server.folder / 'right.tif', pixels[:, 64:])
    bands = ''.join(
        f'<VRTRasterBand dataType="Byte" band="{band}">'
        + ''.join(
            f'<SimpleSource><SourceFilename>/vsicurl/{server.address}/{name}.tif</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
            f'<DstRect xOff="{left}" yOff="0" xSize="64" ySize="64"/></SimpleSource>'
            for name, left in (('left', 0), ('right', 64))
        )
        + '</VRTRasterBand>'
        for band in (1, 2, 3)
    )
    (tmp_path / 'mosaic.vrt').write_text(
        f'<VRTDataset rasterXSize="128" rasterYSize="64">{bands}</VRTDataset>'
    )
    for name in ('whole.tif', 'mosaic.vrt'):
        predict_files(predictor(), tmp_path / name, tmp_path / 'out')
    maps = [rasterio.open(tmp_path / 'out' / f'{name}.tif').read(1) for name in ('whole', 'mosaic')]
    np.testing.assert_array_equal(*maps)
