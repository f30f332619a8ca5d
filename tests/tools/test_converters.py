# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import LoveDADataset, PotsdamDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmseg_semi_rs.datasets import (
    DeepGlobeDataset,
    GID15Dataset,
    MERDataset,
    MSLDataset,
    WHDLDDataset,
)
from mmseg_semi_rs.engine.data_checks import check_segmentation_dataset
from mmseg_semi_rs.rasters.windows import POTSDAM_TILES, tile_windows
from tests._support.archives import (
    DEEPGLOBE,
    GID15,
    MARS,
    POTSDAM,
    WHDLD,
    encode,
    paint,
    potsdam_members,
    random_ids,
    random_rgb,
    write_files,
    write_zip,
)
from tests._support.tiny_training import ROOT, load_tool

potsdam = load_tool('dataset_converters/potsdam')
loveda = load_tool('dataset_converters/loveda')
deepglobe = load_tool('dataset_converters/deepglobe')
whdld = load_tool('dataset_converters/whdld')
gid15 = load_tool('dataset_converters/gid15')
mars = load_tool('dataset_converters/mars')

TILES = ('2_10', '6_7', '7_13')
PREFIX = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')


def load(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def ground_truth(dataset, index: int = 0) -> np.ndarray:
    """A label as mmseg's own pipeline hands it to a network."""
    return LoadAnnotations()(dataset.get_data_info(index))['gt_seg_map']


@pytest.fixture
def potsdam_download(tmp_path):
    images, labels, truth = potsdam_members(TILES)
    write_zip(tmp_path / 'in' / '2_Ortho_RGB.zip', images)
    write_zip(tmp_path / 'in' / '5_Labels_all.zip', labels)
    return tmp_path / 'in', truth


def run_potsdam(source: Path, out: Path, *more: str) -> int:
    arguments = [str(source), '-o', str(out), '--window', '64', '--allow-missing', *more]
    return potsdam.main(arguments)


def test_potsdam_archives_become_mmsegs_layout(tmp_path, potsdam_download):
    source, truth = potsdam_download
    assert run_potsdam(source, tmp_path / 'out') == 0
    names = {str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*.png')}
    windows = ('0_0_64_64', '32_0_96_64', '0_32_64_96', '32_32_96_96')
    assert names == {
        f'{kind}/{subset}/{tile}_{window}.png'
        for kind in ('img_dir', 'ann_dir')
        for subset, tile in (('train', '2_10'), ('train', '6_7'), ('val', '7_13'))
        for window in windows
    }
    dataset = PotsdamDataset(data_root=str(tmp_path / 'out'), data_prefix=PREFIX)
    summary = check_segmentation_dataset(dataset, progress=False)
    assert summary.images == 8 and not summary.absent_classes
    assert (ground_truth(dataset) == truth['2_10'][:64, :64] - 1).all()


def test_potsdam_folders_and_padding(tmp_path):
    images, labels, truth = potsdam_members(TILES[:1])
    write_files(tmp_path / 'in', images)
    write_files(tmp_path / 'in' / '5_Labels_all', labels)
    assert run_potsdam(tmp_path / 'in', tmp_path / 'out', '--edge', 'pad') == 0
    label = load(tmp_path / 'out' / 'ann_dir' / 'train' / '2_10_64_64_128_128.png')
    assert (label[:32, :32] == truth['2_10'][64:, 64:]).all()
    assert (label[32:] == 0).all() and (label[:, 32:] == 0).all()
    dataset = PotsdamDataset(data_root=str(tmp_path / 'out'), data_prefix=PREFIX)
    assert set(np.unique(ground_truth(dataset, 3))) <= {0, 1, 2, 3, 4, 5, 255}


def test_potsdam_failures_are_listed_and_end_in_status_1(tmp_path, potsdam_download, capsys):
    source, _ = potsdam_download
    _, labels, truth = potsdam_members(TILES)
    del labels['top_potsdam_6_7_label.tif']
    painted = paint(truth['7_13'], POTSDAM)
    painted[:4, :4] = (128, 120, 130)
    labels['top_potsdam_7_13_label.tif'] = encode(painted, 'TIFF')
    write_zip(source / '5_Labels_all.zip', labels)
    assert run_potsdam(source, tmp_path / 'out') == 1
    told = capsys.readouterr().err
    assert '1 images (0 of them already there), 4 tiles' in told
    assert '2 failed:' in told
    assert '6_7 has an image but no label' in told
    assert '5_Labels_all.zip!top_potsdam_7_13_label.tif has 16 pixels of colours' in told

    labels['top_potsdam_6_7_label.tif'] = encode(paint(truth['6_7'], POTSDAM), 'TIFF')
    write_zip(source / '5_Labels_all.zip', labels)
    assert run_potsdam(source, tmp_path / 'out', '--exclude', '7_13') == 0
    assert '2 images (1 of them already there), 8 tiles' in capsys.readouterr().err
    assert run_potsdam(source, tmp_path / 'out', '--exclude', '7-13') == 2
    assert '--exclude 7-13 is no tile of Potsdam' in capsys.readouterr().err


def test_potsdam_label_of_the_challenge_stands_in(tmp_path, potsdam_download, capsys):
    source, truth = potsdam_download
    _, labels, _ = potsdam_members(TILES)
    spare = {
        '5_Labels_for_participants/top_potsdam_2_10_label.tif': labels.pop(
            'top_potsdam_2_10_label.tif'
        )
    }
    overlay = paint(truth['2_10'], POTSDAM) // 2 + 64  # the picture shines through
    labels['top_potsdam_2_10_label.tif'] = encode(overlay, 'TIFF')
    write_zip(source / '5_Labels_all.zip', labels)
    assert run_potsdam(source, tmp_path / 'out', '--colour-tolerance', '40') == 1
    write_zip(source / '5_Labels_for_participants.zip', spare)
    assert run_potsdam(source, tmp_path / 'out2', '--colour-tolerance', '40') == 0
    assert 'taken from another file' in capsys.readouterr().err
    label = load(tmp_path / 'out2' / 'ann_dir' / 'train' / '2_10_0_0_64_64.png')
    assert (label == truth['2_10'][:64, :64]).all()


def test_potsdam_asks_for_all_38_tiles(tmp_path, potsdam_download, capsys):
    source, _ = potsdam_download
    assert potsdam.main([str(source), '-o', str(tmp_path / 'out'), '--window', '64']) == 1
    told = capsys.readouterr().err
    absent = [t for part in POTSDAM_TILES.values() for t in part if t not in TILES]
    assert len(absent) == 35 and f'Tiles {", ".join(absent)} are in none of {source}' in told


def test_potsdam_eroded_labels_are_another_archive(tmp_path, potsdam_download):
    source, truth = potsdam_download
    eroded = paint(truth['2_10'], POTSDAM)
    eroded[::2] = 0
    name = '5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif'
    write_zip(source / '5_Labels_all_noBoundary.zip', {name: encode(eroded, 'TIFF')})
    assert run_potsdam(source, tmp_path / 'full') == 0
    other = [tile for tile in TILES if tile != '2_10']
    assert run_potsdam(source, tmp_path / 'eroded', '--no-boundary', '--exclude', *other) == 0
    path = Path('ann_dir') / 'train' / '2_10_0_0_64_64.png'
    assert (load(tmp_path / 'full' / path) == truth['2_10'][:64, :64]).all()
    label = load(tmp_path / 'eroded' / path)
    assert (label[::2] == 0).all() and (label[1::2] == truth['2_10'][1:64:2, :64]).all()


def loveda_members(numbers, domain='Urban', subset='Train') -> dict[str, bytes]:
    found = {}
    for number in numbers:
        ids = random_ids(range(8), 96, 96, number)
        folder = f'{subset}/{domain}'
        found[f'{folder}/images_png/{number}.png'] = encode(random_rgb(96, 96, number), 'PNG')
        found[f'{folder}/masks_png/{number}.png'] = encode(ids, 'PNG')
    return found


def test_loveda_archives_become_mmsegs_layout(tmp_path):
    source = tmp_path / 'in'
    write_zip(source / 'Train.zip', {**loveda_members([0, 1]), **loveda_members([5], 'Rural')})
    write_zip(source / 'Val.zip', loveda_members([2522], 'Rural', 'Val'))
    test = {'Test/Urban/images_png/4191.png': encode(random_rgb(96, 96, 9), 'PNG')}
    write_zip(source / 'Test.zip', test)
    arguments = [str(source), '--allow-missing', '-o']
    assert loveda.main([*arguments, str(tmp_path / 'whole'), '--window', 'whole']) == 0
    names = sorted(
        str(p.relative_to(tmp_path / 'whole')) for p in (tmp_path / 'whole').rglob('*.png')
    )
    assert names == sorted(
        f'{kind}/{name}.png'
        for kind in ('img_dir', 'ann_dir')
        for name in ('train/0', 'train/1', 'train/5', 'val/2522')
    )
    out = tmp_path / 'tiles'
    assert loveda.main([*arguments, str(out), '--window', '48', '--unlabelled']) == 0
    assert len(list((out / 'img_dir' / 'train').iterdir())) == 12
    assert (out / 'ann_dir' / 'val' / '2522_48_0_96_48.png').is_file()
    assert len(list((out / 'img_dir' / 'test').iterdir())) == 4
    assert not (out / 'ann_dir' / 'test').exists()


def test_R21_loveda_zero_is_ignored_explicitly(tmp_path):
    write_zip(tmp_path / 'in' / 'Train.zip', loveda_members([0]))
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '-o', str(out), '--allow-missing']
    assert loveda.main([*arguments, '--window', '64', '--edge', 'pad']) == 0
    truth = random_ids(range(8), 96, 96, 0)
    label = load(out / 'ann_dir' / 'train' / '0_64_0_128_64.png')
    assert (label[:, :32] == truth[:64, 64:]).all()  # raw ids, 0 = no data
    assert (label[:, 32:] == 0).all()  # padding
    dataset = LoveDADataset(data_root=str(out), data_prefix=PREFIX)
    index = [dataset.get_data_info(k)['img_path'] for k in range(4)].index(
        f'{out}/img_dir/train/0_0_0_64_64.png'
    )
    expected = np.array([255, 0, 1, 2, 3, 4, 5, 6], np.uint8)[truth[:64, :64]]
    assert (ground_truth(dataset, index) == expected).all()
    summary = check_segmentation_dataset(dataset, progress=False)
    assert summary.ignored_share > 0.4 and not summary.absent_classes


def test_loveda_names_what_is_missing_or_wrong(tmp_path, capsys):
    files = loveda_members([0, 1, 2])
    del files['Train/Urban/masks_png/1.png']
    wrong = random_ids(range(8), 96, 96, 2)
    wrong[5, 5] = 11
    files['Train/Urban/masks_png/2.png'] = encode(wrong, 'PNG')
    write_zip(tmp_path / 'in' / 'Train.zip', files)
    assert loveda.main([str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--window', '48']) == 1
    told = capsys.readouterr().err
    assert '2519 of 2522 images of train are in none of' in told
    assert '1669 of 1669 images of val are in none of' in told
    assert '1 has an image but no label' in told
    assert '2.png has 1 pixels of ids [11]' in told
    assert len(list((tmp_path / 'out' / 'ann_dir' / 'train').iterdir())) == 4


def deepglobe_members(numbers, folder='train', labels=True) -> dict[str, bytes]:
    found = {}
    for number in numbers:
        ids = random_ids(DEEPGLOBE, 96, 96, number)
        found[f'{folder}/{number}_sat.jpg'] = encode(random_rgb(96, 96, number), 'JPEG')
        if labels:
            found[f'{folder}/{number}_mask.png'] = encode(paint(ids, DEEPGLOBE), 'PNG')
    return found


def test_deepglobe_archive_becomes_mmsegs_layout(tmp_path):
    files = deepglobe_members([119, 855])
    files.update(deepglobe_members([7], 'valid', labels=False))
    write_zip(tmp_path / 'in' / 'deepglobe.zip', files)
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '-o', str(out), '--allow-missing', '--window', '64']
    assert deepglobe.main(arguments) == 0
    assert {path.name for path in out.iterdir() if path.is_dir()} == {'img_dir', 'ann_dir'}
    assert len(list((out / 'img_dir' / 'train').iterdir())) == 8
    dataset = DeepGlobeDataset(data_root=str(out), data_prefix=PREFIX)
    assert check_segmentation_dataset(dataset, progress=False).images == 8


def test_R19_deepglobe_padding_is_255_not_urban(tmp_path):
    write_files(tmp_path / 'in', deepglobe_members([855]))
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '-o', str(out), '--allow-missing', '--window', '64']
    assert deepglobe.main(arguments) == 0
    label = load(out / 'ann_dir' / 'train' / '855_64_64_128_128.png')
    truth = random_ids(DEEPGLOBE, 96, 96, 855)
    assert (label[:32, :32] == truth[64:, 64:]).all()
    assert (label[32:] == 255).all() and (label[:, 32:] == 255).all()


def test_R20_unknown_is_ignored_unless_trained(tmp_path):
    write_files(tmp_path / 'in', deepglobe_members([855]))
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '-o', str(out), '--allow-missing', '--window', 'whole']
    assert deepglobe.main(arguments) == 0
    truth = random_ids(DEEPGLOBE, 96, 96, 855)
    default = ground_truth(DeepGlobeDataset(data_root=str(out), data_prefix=PREFIX))
    assert (default == np.where(truth == 6, 255, truth)).all()
    trained = DeepGlobeDataset(train_unknown=True, data_root=str(out), data_prefix=PREFIX)
    assert (ground_truth(trained) == truth).all()


def test_deepglobe_names_what_is_missing(tmp_path, capsys):
    files = deepglobe_members([855, 900])
    del files['train/900_mask.png']
    write_files(tmp_path / 'in', files)
    out = ['-o', str(tmp_path / 'out'), '--window', '48']
    assert deepglobe.main([str(tmp_path / 'in'), *out]) == 1
    told = capsys.readouterr().err
    assert '801 of 803 labelled images are in none of' in told
    assert '900 has an image but no label' in told


def palette_image(ids: np.ndarray, colours: dict, first: int) -> bytes:
    """Ids as indices from ``first`` into a palette of their colours, as labelme writes labels."""
    image = Image.fromarray(np.where(ids == 255, 0, ids + first).astype(np.uint8), 'P')
    table = np.zeros((256, 3), np.uint8)
    for class_id, colour in colours.items():
        table[0 if class_id == 255 else class_id + first] = colour
    image.putpalette(table.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


def whdld_members(names, label=lambda ids: encode(paint(ids, WHDLD), 'PNG')) -> dict[str, bytes]:
    found = {}
    for seed, name in enumerate(names):
        found[f'WHDLD/Images/{name}.jpg'] = encode(random_rgb(64, 64, seed), 'JPEG')
        found[f'WHDLD/ImagesPNG/{name}.png'] = label(random_ids(WHDLD, 64, 64, seed))
    return found


@pytest.mark.parametrize(
    'label',
    [
        lambda ids: encode(paint(ids, WHDLD), 'PNG'),
        lambda ids: palette_image(ids, WHDLD, 0),
        lambda ids: encode(ids, 'PNG'),
    ],
    ids=['painted', 'palette', 'ids'],
)
def test_whdld_archive_becomes_mmsegs_layout(tmp_path, label):
    write_zip(tmp_path / 'in' / 'WHDLD.zip', whdld_members(['wh0001', 'wh3917'], label))
    out = tmp_path / 'out'
    assert whdld.main([str(tmp_path / 'in'), '-o', str(out), '--allow-missing']) == 0
    names = sorted(str(path.relative_to(out)) for path in out.rglob('*.png'))
    assert names == [
        f'{kind}/train/{name}.png'
        for kind in ('ann_dir', 'img_dir')
        for name in ('wh0001', 'wh3917')
    ]
    truth = random_ids(WHDLD, 64, 64, 1)
    assert (load(out / 'ann_dir' / 'train' / 'wh3917.png') == truth).all()
    dataset = WHDLDDataset(data_root=str(out), data_prefix=PREFIX)
    assert (ground_truth(dataset, 1) == truth - 1).all()
    assert not check_segmentation_dataset(dataset, progress=False).absent_classes


def test_whdld_colours_off_the_legend_are_counted(tmp_path, capsys):
    files = whdld_members(['wh0001'])
    painted = paint(random_ids(WHDLD, 64, 64, 0), WHDLD)
    painted[:2, :3] = (250, 0, 0)
    files['WHDLD/ImagesPNG/wh0001.png'] = encode(painted, 'PNG')
    write_files(tmp_path / 'in', files)
    arguments = [str(tmp_path / 'in'), '--allow-missing', '-o', str(tmp_path / 'out')]
    assert whdld.main(arguments) == 1
    assert '6 pixels of colours outside the legend (e.g. (250, 0, 0))' in capsys.readouterr().err
    arguments[-1] = str(tmp_path / 'ignored')
    assert whdld.main([*arguments, '--unknown-colours', 'ignore']) == 0
    assert '(e.g. (250, 0, 0)), ignored' in capsys.readouterr().err
    assert (load(tmp_path / 'ignored/ann_dir/train/wh0001.png')[:2, :3] == 0).all()


def gid15_members(scenes, height=112, width=120, ending='label') -> dict[str, bytes]:
    folder = 'GID/Fine Land-cover Classification_15classes'
    found = {}
    for seed, scene in enumerate(scenes):
        ids = random_ids(GID15, height, width, seed)
        found[f'{folder}/image_RGB/{scene}.tif'] = encode(random_rgb(height, width, seed), 'TIFF')
        label = encode(paint(ids, GID15), 'TIFF')
        found[f'{folder}/label_15classes/{scene}_{ending}.tif'] = label
        found[f'{folder}/image_NirRGB/{scene}.tif'] = b'never opened'
    return found


GF2 = 'GF2_PMS1__L1A0001064454-MSS1'


@pytest.mark.parametrize('ending', ['label', '15label'])
def test_gid15_folders_become_mmsegs_layout(tmp_path, ending):
    write_files(tmp_path / 'in', gid15_members([GF2], ending=ending))
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '-o', str(out), '--allow-missing', '--window', '64']
    assert gid15.main([*arguments, '--stride', '48']) == 0
    names = {path.stem for path in (out / 'img_dir' / 'train').iterdir()}
    windows = ('0_0_64_64', '48_0_112_64', '56_0_120_64', '0_48_64_112', '56_48_120_112')
    assert {f'{GF2}_{window}' for window in windows} < names and len(names) == 6
    truth = random_ids(GID15, 112, 120, 0)
    assert (load(out / 'ann_dir' / 'train' / f'{GF2}_0_0_64_64.png') == truth[:64, :64]).all()
    dataset = GID15Dataset(data_root=str(out), data_prefix=PREFIX)
    summary = check_segmentation_dataset(dataset, progress=False)
    assert summary.images == 6 and not summary.absent_classes and summary.ignored_share > 0


def test_gid15_defaults_give_the_published_grid():
    args = gid15.build_parser().parse_args(['in'])
    for window, stride in ((args.window, args.stride), (384, args.stride)):
        windows = tile_windows(7200, 6800, window, stride, args.edge)
        assert len({w.y0 for w in windows}) == 18 and len({w.x0 for w in windows}) == 19


def mars_members(part, names, height, width, label) -> dict[str, bytes]:
    found = {}
    for seed, name in enumerate(names):
        rgb = random_rgb(height, width, seed)
        image = rgb[..., 0] if part == 'MER' else rgb
        found[f'Mars-Seg/{part}/JPEGImages/{name}.jpg'] = encode(image, 'JPEG')
        ids = random_ids(MARS, height, width, seed)
        found[f'Mars-Seg/{part}/SegmentationClassPNG/{name}.png'] = label(ids)
    return found


@pytest.mark.parametrize(
    ('part', 'kind', 'name', 'size'),
    [
        ('MER', MERDataset, '1P129342946EFF0300P2376L7M1', (96, 96)),
        ('MSL', MSLDataset, '3923', (50, 56)),
    ],
)
@pytest.mark.parametrize(
    'label',
    [
        lambda ids: encode(paint(ids, MARS), 'PNG'),
        lambda ids: palette_image(ids, MARS, 1),
        lambda ids: encode(ids, 'PNG'),
    ],
    ids=['painted', 'palette', 'ids'],
)
def test_mars_parts_become_mmsegs_layout(tmp_path, part, kind, name, size, label):
    other = 'MSL' if part == 'MER' else 'MER'
    files = mars_members(part, [name], *size, label)
    write_zip(tmp_path / 'in' / 'Mars-Seg.zip', {**files, **mars_members(other, 'x', 8, 8, label)})
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'in'), '--part', part.lower(), '-o', str(out), '--allow-missing']
    assert mars.main(arguments) == 0
    (path,) = (out / 'ann_dir' / 'train').iterdir()
    assert path.name == f'{name}.png'
    assert (load(path) == random_ids(MARS, *size, 0)).all()
    assert load(out / 'img_dir' / 'train' / path.name).shape == (*size, 3)
    dataset = kind(data_root=str(out), data_prefix=PREFIX)
    assert (ground_truth(dataset) == random_ids(MARS, *size, 0)).all()


def test_whdld_ids_that_count_from_zero_are_refused(tmp_path, capsys):
    def from_zero(ids: np.ndarray) -> bytes:
        return encode((np.where(ids == 0, 1, ids) - 1).astype(np.uint8), 'PNG')

    write_files(tmp_path / 'in', whdld_members(['wh0001'], from_zero))
    assert whdld.main([str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--allow-missing']) == 1
    assert (
        'pixels of ids [0] but the data set defines [1, 2, 3, 4, 5, 6]' in capsys.readouterr().err
    )


def test_mars_ids_that_count_from_one_are_refused(tmp_path, capsys):
    def from_one(ids: np.ndarray) -> bytes:
        return encode(np.where(ids == 255, 0, ids + 1).astype(np.uint8), 'PNG')

    write_files(tmp_path / 'in', mars_members('MSL', ['5'], 50, 56, from_one))
    arguments = [str(tmp_path / 'in'), '--part', 'msl', '-o', str(tmp_path / 'out')]
    assert mars.main([*arguments, '--allow-missing']) == 1
    assert 'pixels of ids [9] but the data set defines [0, 1, 2, 3' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'options', 'message'),
    [
        (whdld, [], '4939 of 4940 images are in none of'),
        (gid15, [], '9 of 10 scenes are in none of'),
        (mars, ['--part', 'mer'], '1063 of 1064 frames are in none of'),
        (mars, ['--part', 'msl'], '3926 of 3927 frames are in none of'),
    ],
)
def test_missing_images_are_counted(tool, options, message, tmp_path, capsys):
    files = {**whdld_members(['wh0001']), **gid15_members([GF2])}
    for part in ('MER', 'MSL'):
        files.update(mars_members(part, ['5'], 8, 8, lambda ids: encode(paint(ids, MARS), 'PNG')))
    write_files(tmp_path / 'in', files)
    window = ['--window', '64', '--stride', '64']
    assert tool.main([str(tmp_path / 'in'), *options, *window, '-o', str(tmp_path / 'out')]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'options'),
    [
        *((tool, []) for tool in (potsdam, loveda, deepglobe, whdld, gid15)),
        (mars, ['--part', 'mer']),
    ],
)
def test_bad_options_are_one_sentence(tool, options, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    out = [*options, '-o', str(tmp_path / 'out')]
    assert tool.main([str(tmp_path / 'nowhere'), *out]) == 2
    assert 'nowhere does not exist' in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'in'), *out, '--window', '512', '--stride', '600']) == 2
    told = capsys.readouterr().err
    assert 'error: A stride of 600 is larger than the window of 512' in told
    assert len(told.strip().splitlines()) == 1
    assert tool.main([str(tmp_path / 'in'), *out]) == 1  # nothing there
    assert 'are in none of' in capsys.readouterr().err


@pytest.mark.slow
def test_command_line(tmp_path, potsdam_download):
    source, _ = potsdam_download
    script = ROOT / 'tools' / 'dataset_converters' / 'potsdam.py'
    options = ['-o', 'out', '--window', '64', '--allow-missing', '--workers', '2']
    done = subprocess.run(
        [sys.executable, str(script), str(source), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '3/3' in done.stderr and '3 images (0 of them already there), 12 tiles' in done.stderr
    summary = json.loads((tmp_path / 'out' / 'conversion.json').read_text())
    assert summary['failures'] == [] and summary['subsets']['val']['tiles'] == 4
