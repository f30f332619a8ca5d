# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""``rsseg init --bands all``: a config of as many channels as the files have bands."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_semi_rs.engine import data_checks
from mmseg_semi_rs.rasters.levels import RasterToBands, raster_conversion
from mmseg_semi_rs.rasters.reader import read_rgb
from tests._support.bands import HIGH, LOW, stack, write_bands
from tests._support.config_zoo import build_model
from tests._support.tiny_training import load_tool, run_here

rasterio = pytest.importorskip('rasterio')
TOOL = load_tool('init_dataset')


@pytest.fixture
def folder(tmp_path):
    """Twelve scenes of five bands, of which eight have a mask."""
    for index in range(12):
        bands = stack(96, 80, seed=index)
        bands[:, :8, :8] = -9999
        write_bands(tmp_path / 'images' / f's{index:02}.tif', bands, nodata=-9999)
        if index < 8:
            (tmp_path / 'masks').mkdir(exist_ok=True)
            ids = (np.indices((96, 80)).sum(0) // 20 % 3).astype(np.uint8)
            Image.fromarray(ids).save(tmp_path / 'masks' / f's{index:02}.png')
    return tmp_path


def init(folder, *options, out='out'):
    names = [folder / 'images', folder / 'masks', '--classes', 'land', 'water', 'town']
    code = 0
    try:
        TOOL.main([str(word) for word in (*names, '--out', folder / out, *options)])
    except SystemExit as leave:
        code = leave.code
    configs = [path for path in (folder / out).glob('*.py') if '_supervised' not in path.stem]
    return code, Config.fromfile(configs[0]) if configs else None


def test_all_bands_where_they_are(folder, capsys):
    code, cfg = init(folder, '--bands', 'all', '--rgb', 3, 2, 1)
    assert code == 0
    told = capsys.readouterr().out
    assert 'bands 1, 2, 3, 4, 5 of 5 are channels; 3, 2, 1 make pictures' in told
    assert Path(cfg.image_dir) == folder / 'images'  # nothing was converted
    to_bands = raster_conversion(cfg.raster)
    assert isinstance(to_bands, RasterToBands)
    assert (to_bands.count, to_bands.rgb, cfg.rgb) == (5, [3, 2, 1], [2, 1, 0])
    np.testing.assert_allclose(to_bands.low, LOW, atol=120)
    np.testing.assert_allclose(to_bands.high, HIGH, atol=120)

    names = [
        name
        for role in ('labelled', 'unlabelled')
        for name in (folder / 'out/splits' / f'{role}.txt').read_text().split()
    ]
    levels = np.concatenate(
        [
            pixels[valid]
            for pixels, valid in (read_rgb(folder / 'images' / name, to_bands) for name in names)
        ]
    )
    preprocessor = cfg.model.data_preprocessor
    np.testing.assert_allclose(preprocessor.mean, levels.mean(0), rtol=1e-3)
    np.testing.assert_allclose(preprocessor.std, levels.std(0), rtol=1e-3)
    assert preprocessor.rgb == [2, 1, 0]
    student = cfg.model.student
    assert student.backbone.in_channels == 5
    assert student.backbone.init_cfg.bands == [2, 1, 0]
    assert student.decode_head.teachers.lite2.bands == [2, 1, 0]

    init_default_scope('mmseg')
    semi = DATASETS.build(cfg.train_dataloader.dataset)
    data_checks.check_semi_dataset(semi, progress=False)
    item = semi[0]
    assert item['inputs']['sup'].shape == (5, *cfg.crop_size)
    labels = item['data_samples']['sup']
    outside = ~labels.valid.data[0]
    assert (labels.gt_sem_seg.data[0][outside] == 255).all()  # where there is no data
    build_model(repr(cfg.model.to_dict()))


def test_large_scenes_are_cut_into_tiles_of_the_same_numbers(folder):
    code, cfg = init(folder, '--bands', '4,3,2,5', '--tile', 64, '--method', 'fixmatch')
    assert code == 0
    assert cfg.raster.bands == [4, 3, 2, 5]
    assert cfg.raster.rgb == [4, 3, 2]  # the first three, where the files mark none
    assert cfg.model.student.backbone.in_channels == 4
    tiles = sorted(Path(cfg.image_dir).glob('*.tif'))
    assert len(tiles) == 12 * 4
    with rasterio.open(tiles[1]) as tile, rasterio.open(folder / 'images/s00.tif') as scene:
        x0, y0, x1, y1 = map(int, tiles[1].stem.split('_')[1:])
        np.testing.assert_array_equal(tile.read(), scene.read()[:, y0:y1, x0:x1])
        assert tile.nodata == -9999
        assert tile.crs == scene.crs
        assert tile.transform * (0, 0) == pytest.approx(scene.transform * (x0, y0))
    before = [tile.stat().st_mtime_ns for tile in tiles]
    assert init(folder, '--bands', '4,3,2,5', '--tile', 64, '--method', 'fixmatch')[0] == 0
    assert [tile.stat().st_mtime_ns for tile in tiles] == before  # kept


def test_radar_has_no_colours(folder):
    for path in (folder / 'images').iterdir():
        bands = stack(96, 80)[:2]
        write_bands(path, bands)
    code, cfg = init(folder, '--bands', 'all')
    assert code == 0
    assert cfg.model.student.type == 'EncoderDecoder'  # fixmatch: no teacher of RGB
    assert cfg.model.student.backbone.init_cfg.bands == []
    assert cfg.photometry == [dict(type='BandPhotometry', strength='mild', rgb=None)]
    assert cfg.rgb == [0, 0, 0]
    build_model(repr(cfg.model.to_dict()))


def test_files_of_other_bands_are_left_out(folder, capsys):
    write_bands(folder / 'images/s11.tif', stack(96, 80)[:4])
    code, cfg = init(folder, '--bands', 'all')
    assert code == 1
    assert 's11.tif has 4 bands where most images have 5' in capsys.readouterr().out
    assert cfg.raster.count == 5


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (('--bands', 'most'), '--bands most are no numbers of bands'),
        (('--bands', '1', '7'), 'has 5 bands, not 7'),
        (('--bands', 'all', '--rgb', '1', '2'), 'not one or three of the bands'),
        (('--bands', '4,5', '--method', 'rsmtdf-lite'), '--method rsmtdf-lite asks a network'),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, capsys, options, told):
    code, cfg = init(folder, *options)
    assert (code, cfg) == (2, None)
    error = capsys.readouterr().err
    assert told in error
    assert 'Traceback' not in error


def test_three_bands_are_rgb_as_ever(folder):
    code, cfg = init(folder, '--bands', 3, 2, 1, '--method', 'fixmatch')
    assert code == 0
    assert cfg.raster.bands == [3, 2, 1]
    assert 'count' not in cfg.raster
    assert cfg.model.data_preprocessor.bgr_to_rgb is True
    assert all(path.suffix == '.png' for path in Path(cfg.image_dir).iterdir())


@pytest.mark.slow
def test_five_bands_from_init_to_maps(folder, tmp_path):
    cheap = [
        'model.student.backbone.init_cfg=None',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
    ]
    code, cfg = init(folder, '--bands', 'all', '--method', 'fixmatch', '--iters', 4)
    assert code == 0
    path, run = cfg.filename, tmp_path / 'run'
    run_here('train', path, '--work-dir', run, '--cfg-options', *cheap)
    drawn = [file.name for file in run.rglob('*.png')]
    assert any(name.startswith('val_s') for name in drawn)
    assert any(name.startswith('pseudo_labels') for name in drawn)
    checkpoint = run / 'iter_4.pth'
    run_here('test', path, checkpoint, '--work-dir', run, '--json', run / 'test.json',
             '--cfg-options', *cheap[3:])  # fmt: skip
    assert 'mIoU' in json.loads((run / 'test.json').read_text())
    run_here('predict', path, checkpoint, folder / 'images', '--out', tmp_path / 'maps')
    assert len(list((tmp_path / 'maps').glob('*.tif'))) == 12
    run_here('browse_dataset', path, '--out', tmp_path / 'pictures', '--batches', 1,
             '--cfg-options', *cheap)  # fmt: skip
    assert list((tmp_path / 'pictures').rglob('*.png'))
