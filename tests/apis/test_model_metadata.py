# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The STAC item and the keys of Deepness say what an exported network takes and gives."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from mmseg_semi_rs.apis.graph_export import GraphFile
from mmseg_semi_rs.apis.model_metadata import deepness_properties, stac_item
from mmseg_semi_rs.rasters.levels import raster_conversion

BANDS = dict(bands=[4, 3, 2, 1], low=[100, 0, 50, 7], high=[1000, 900, 80, 8], rgb=[4, 3, 2])


def taken(raster, channels=3, size=(96, 64)):
    network = nn.Module()
    network.backbone, network.decode_head = nn.Conv2d(channels, 4, 1), nn.Identity()
    network.auxiliary_head, network.out_channels = nn.Conv2d(9, 9, 1), 2
    return SimpleNamespace(
        network=network, raster=raster, channels=channels, size=size,
        classes=['low vegetation', 'tree'], palette=[[0, 255, 128], [0, 0, 1]],
    )  # fmt: skip


def graph(suffix, multiple):
    return GraphFile(Path(f'out/net{suffix}'), 'any', (96, 64), multiple, 0.0, (), '')


def item_of(network, *graphs):
    files = SimpleNamespace(config=Path('out/net.py'), checkpoint=Path('out/net.pth'))
    return stac_item(network, files, graphs, '5_bands é_')


@pytest.mark.parametrize(('raster', 'channels'), [({}, 3), (BANDS, 4)])
def test_what_deepness_does_to_pixels_gives_the_networks_input(raster, channels):
    found = deepness_properties(taken(raster, channels), 1)
    about = {key: json.loads(value) for key, value in found.items()}
    values = np.array([[[101, 40, 60, 7]]], np.float32)[..., :channels]
    given = (values / 255 - about['standardization_mean']) / about['standardization_std']
    expected = (
        raster_conversion(raster)(values[..., ::1].transpose(2, 0, 1).astype(np.uint16))
        if raster
        else values
    )
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-3)
    assert about['model_type'] == 'Segmentor' and about['tile_size'] == 64
    assert about['class_names'] == {'0': 'low vegetation', '1': 'tree'}


def test_deepness_has_no_tiles_for_a_network_of_one_oblong_size():
    assert 'tile_size' not in deepness_properties(taken({}), None)
    assert deepness_properties(taken({}, size=(64, 64)), None)['tile_size'] == '64'


def test_item_has_what_the_extension_asks_for():
    """The fields that the extension's schema requires, and the patterns it sets."""
    item = item_of(taken(BANDS, 4), graph('.pt2', 14), graph('.onnx', 32))
    about = item['properties']
    assert (item['type'], item['stac_version'], item['geometry']) == ('Feature', '1.1.0', None)
    assert re.fullmatch(r'[a-zA-Z][a-zA-Z0-9_.\-]+[a-zA-Z0-9]', about['mlm:name'])
    assert about['mlm:tasks'] == ['semantic-segmentation']
    assert about['mlm:architecture'] == 'Conv2d with Identity'
    assert about['mlm:total_parameters'] == 4 * 4 + 4  # of an auxiliary head nothing is exported
    (into,), (out,) = about['mlm:input'], about['mlm:output']
    assert into['input'] == dict(
        shape=[-1, 4, -1, -1],
        dim_order=['batch', 'channel', 'height', 'width'],
        data_type='float32',
    )
    assert 'multiples of 224' in into['description']  # of both files
    assert [band['name'] for band in about['bands']] == into['bands']
    assert into['bands'] == ['band4', 'band3', 'band2', 'band1']
    scaled = eval(into['value_scaling'][0]['expression'], {'numpy': np, 'value': 550})
    assert scaled == pytest.approx((550 - 100) / 900 * 255)
    assert len(out['result']['shape']) == len(out['result']['dim_order']) == 4
    first = out['classification:classes'][0]
    assert first == dict(
        value=0, name='low_vegetation', description='low vegetation', color_hint='00FF80'
    )
    for name, asset in item['assets'].items():
        assert ('mlm:model' in asset['roles']) == ('mlm:artifact_type' in asset) == (
            name in ('pt2', 'onnx')
        )  # fmt: skip
        assert Path(asset['href']).stem == 'net'
        assert asset.get('bands', about['bands']) == about['bands']
    assert item['assets']['pt2']['bands']


def test_item_of_one_size_says_so():
    item = item_of(taken({}), graph('.pt2', 1), graph('.onnx', None))
    (into,) = item['properties']['mlm:input']
    assert into['input']['shape'] == [1, 3, 96, 64] and 'value_scaling' not in into
    assert into['bands'] == ['red', 'green', 'blue']


def test_item_passes_the_validators_of_others():
    """The schemas of STAC as pystac carries them, and the extension's own models of its fields."""
    models = pytest.importorskip('stac_model.schema')  # its schema itself is in no package
    pystac = pytest.importorskip('pystac')
    pydantic = pytest.importorskip('pydantic')
    item = item_of(taken(BANDS, 4), graph('.pt2', 1), graph('.onnx', 32))
    pystac.validation.validate_dict({**item, 'stac_extensions': []})
    models.MLModelProperties.model_validate(item['properties'])
    broken = {**item, 'id': 3, 'stac_extensions': []}
    with pytest.raises(pystac.errors.STACValidationError):
        pystac.validation.validate_dict(broken)
    item['properties']['mlm:tasks'] = ['guessing']
    with pytest.raises(pydantic.ValidationError, match='mlm:tasks'):
        models.MLModelProperties.model_validate(item['properties'])
