# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import PotsdamDataset

from mmseg_semi_rs.dataprep.splits.files import verify_split
from mmseg_semi_rs.engine.data_checks import check_segmentation_dataset
from mmseg_semi_rs.rasters.windows import POTSDAM_TILES
from tests._support.archives import converted, encode, grid_names, write_files
from tests._support.tiny_training import load_tool

make_splits = load_tool('make_splits')

SCENES = {tile: subset for subset, tiles in POTSDAM_TILES.items() for tile in tiles[:6]}


@pytest.fixture
def potsdam(tmp_path) -> Path:
    """12 scenes of 3 x 3 tiles of 8 px."""
    names = grid_names(SCENES, 3, window=8)
    return converted(tmp_path / 'potsdam', names)


def run(dataset: str, root: Path, *more: str) -> int:
    return make_splits.main([dataset, '--data-root', str(root), *more])


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


def scene(name: str) -> str:
    return '_'.join(name.split('/')[1].split('_')[:2])


def test_default_is_by_scene_and_leaks_nothing(potsdam, capsys):
    assert run('potsdam', potsdam) == 0
    folder = potsdam / 'splits' / 'scene'
    parts = {role: read(folder / f'{role}.txt') for role in ('train', 'val', 'test')}
    assert sum(map(len, parts.values())) == 12 * 9
    seen = [{scene(name) for name in names} for names in parts.values()]
    assert [len(part) for part in seen] == [7, 3, 2]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    manifest = verify_split(folder)
    for role in ('val', 'test'):
        leak = manifest['leak'][role]
        assert leak['scene_in_training'] == leak['pixels_in_training'] == 0
        assert set(leak['scene_labelled'].values()) == {0}
    assert manifest['labelled']['unit'] == 'tile'
    assert 'fewer than 8' in manifest['labelled']['reason']
    assert manifest['classes_absent'] == {}
    for ratio, count in {'1-4': 15, '1-8': 7, '1-16': 3, '1-32': 1, '1pct': 1, '10pct': 6}.items():
        labelled = read(folder / ratio / 'labeled.txt')
        unlabelled = read(folder / ratio / 'unlabeled.txt')
        assert len(labelled) == count
        assert sorted(labelled + unlabelled) == sorted(parts['train'])
    told = capsys.readouterr().err
    assert 'val: 0.0% of tiles have their scene in training' in told


def test_lists_are_what_mmseg_reads(potsdam):
    assert run('potsdam', potsdam, '--ratios', '1-4') == 0
    dataset = PotsdamDataset(
        data_root=str(potsdam),
        ann_file='splits/scene/1-4/labeled.txt',
        data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'),
    )
    assert check_segmentation_dataset(dataset, progress=False).images == 15


def test_manifest_names_recipe_and_hashes(potsdam):
    assert run('potsdam', potsdam, '--seed', '5', '--ratios', '1-4', '--name', 'five') == 0
    manifest = json.loads((potsdam / 'splits' / 'five' / 'manifest.json').read_text())
    assert manifest['seed'] == 5 and manifest['preset'] == 'scene'
    assert manifest['scene_regex'] == r'(\d+_\d+)'
    for path, entry in manifest['lists'].items():
        contents = (potsdam / 'splits' / 'five' / path).read_bytes()
        assert entry['sha256'] == hashlib.sha256(contents).hexdigest()
        assert entry['lines'] == contents.count(b'\n')
    assert set(manifest['lists']) == {
        *('train.txt', 'val.txt', 'test.txt', '1-4/labeled.txt', '1-4/unlabeled.txt')
    }


def test_R23_same_seed_same_files(potsdam):
    options = ('--ratios', '1-4', '1pct')
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        assert run('potsdam', potsdam, *options, '--name', name, '--seed', seed) == 0
    lists = [(potsdam / 'splits' / name / '1-4' / 'labeled.txt').read_bytes() for name in 'abc']
    assert lists[0] == lists[1] != lists[2]


def test_labelled_by_scene_on_request(potsdam):
    assert run('potsdam', potsdam, '--labelled-by', 'scene', '--ratios', '1-7') == 0
    labelled = read(potsdam / 'splits' / 'scene' / '1-7' / 'labeled.txt')
    assert len(labelled) == 9 and len({scene(name) for name in labelled}) == 1


def test_R22_images_without_masks_are_only_unlabelled(potsdam, capsys):
    bare = next(iter(grid_names({'2_10': 'train'}, 3, window=8)))
    (potsdam / 'ann_dir' / f'{bare}.png').unlink()
    assert run('potsdam', potsdam, '--preset', 'official', '--ratios', '1-4') == 0
    assert bare not in read(potsdam / 'splits' / 'official' / 'train.txt')
    assert '1 images without a label are in no list' in capsys.readouterr().err
    more = ('--ratios', '1-4', '--extra-unlabelled', '--overwrite')
    assert run('potsdam', potsdam, '--preset', 'official', *more) == 0
    folder = potsdam / 'splits' / 'official'
    assert bare in read(folder / '1-4' / 'unlabeled.txt')
    assert bare not in read(folder / '1-4' / 'labeled.txt')
    assert all(len(line.split()) == 1 for line in read(folder / '1-4' / 'unlabeled.txt'))


def test_extra_images_of_evaluated_scenes_stay_out(potsdam):
    extra = {scene_id: f'train/{scene_id}_99_99_107_107' for scene_id in SCENES}
    for name in extra.values():
        write_files(potsdam, {f'img_dir/{name}.png': b'never opened'})
    assert run('potsdam', potsdam, '--extra-unlabelled', '--ratios', '1-4') == 0
    folder = potsdam / 'splits' / 'scene'
    train = {scene(name) for name in read(folder / 'train.txt')}
    unlabelled = set(read(folder / '1-4' / 'unlabeled.txt'))
    assert {key for key, name in extra.items() if name in unlabelled} == train
    assert len(train) == 7


# --- presets


def test_official_keeps_the_folders(potsdam, capsys):
    assert run('potsdam', potsdam, '--preset', 'official') == 0
    folder = potsdam / 'splits' / 'official'
    assert {name.split('/')[0] for name in read(folder / 'train.txt')} == {'train'}
    assert {name.split('/')[0] for name in read(folder / 'val.txt')} == {'val'}
    assert read(folder / 'test.txt') == read(folder / 'val.txt')
    assert 'warning: test is val' in capsys.readouterr().err


def test_official_needs_a_val_folder(tmp_path, capsys):
    root = converted(tmp_path, [f'train/{k}_0_0_8_8' for k in range(9)], range(6))
    assert run('deepglobe', root, '--preset', 'official') == 2
    told = capsys.readouterr().err
    assert 'has no labelled image in the folder val' in told and '--preset scene' in told


def test_dwl_shuffles_tiles_and_tells_the_leak(potsdam, capsys):
    assert run('potsdam', potsdam, '--preset', 'dwl', '--ratios', '10pct') == 0
    folder = potsdam / 'splits' / 'dwl'
    sizes = [len(read(folder / f'{role}.txt')) for role in ('train', 'val', 'test')]
    assert sizes == [64, 21, 23]
    leak = json.loads((folder / 'manifest.json').read_text())['leak']['test']
    assert leak['scene_in_training'] == 1 and leak['pixels_in_training'] == 0
    labelled = {scene(name) for name in read(folder / '10pct' / 'labeled.txt')}
    test = read(folder / 'test.txt')
    expected = sum(scene(name) in labelled for name in test) / len(test)
    assert leak['scene_labelled']['10pct'] == pytest.approx(expected)
    assert 0 < expected < 1
    assert 'test: 100.0% of tiles have their scene in training' in capsys.readouterr().err


def test_dwl_halves_the_val_folder_of_loveda(tmp_path):
    names = grid_names({str(k): 'train' if k < 6 else 'val' for k in range(10)}, 2, window=8)
    root = converted(tmp_path, names, range(8))
    assert run('loveda', root, '--preset', 'dwl', '--ratios', '1-4') == 0
    folder = root / 'splits' / 'dwl'
    lists = [read(folder / f'{role}.txt') for role in ('train', 'val', 'test')]
    assert [len(names) for names in lists] == [24, 8, 8]
    assert not set(lists[1]) & set(lists[2])


def test_semiearth_potsdam_lists(tmp_path):
    scenes = {tile: subset for subset, tiles in POTSDAM_TILES.items() for tile in tiles}
    names = grid_names(scenes, 12, shift=144)
    nothing = {f'{kind}_dir/{name}.png': b'' for name in names for kind in ('img', 'ann')}
    root = write_files(tmp_path, nothing)
    assert run('potsdam', root, '--preset', 'semiearth', '--no-coverage') == 0
    folder = root / 'splits' / 'semiearth'
    # numbers 4889, 2414 and 4249 of 1..5472: tiles 33, 16 and 29, windows 137, 110 and 73
    assert read(folder / 'train.txt')[0] == 'train/7_9_2048_5488_2560_6000'
    assert read(folder / 'val.txt')[0] == 'train/5_10_512_4608_1024_5120'
    assert read(folder / 'test.txt')[0] == 'val/6_14_0_3072_512_3584'
    counts = {r: len(read(folder / r / 'labeled.txt')) for r in ('1pct', '5pct', '10pct')}
    assert counts == {'1pct': 32, '5pct': 164, '10pct': 328}
    assert read(folder / '1pct' / 'labeled.txt') == read(folder / 'train.txt')[:32]
    manifest = verify_split(folder)
    assert 'random.seed(42)' in manifest['partition']['recipe']
    assert '(assumed)' in manifest['partition']['recipe']
    assert manifest['leak']['test']['scene_in_training'] == 1


def test_semiearth_is_for_the_whole_of_potsdam(potsdam, tmp_path, capsys):
    assert run('potsdam', potsdam, '--preset', 'semiearth') == 2
    assert 'numbers 38 images x 144 windows but there are 12 x 9' in capsys.readouterr().err
    root = converted(tmp_path / 'loveda', ['train/1', 'val/2'], range(8))
    assert run('loveda', root, '--preset', 'semiearth') == 2
    assert 'import them with --import-list' in capsys.readouterr().err


def test_co2s_divides_tiles_and_reports_on_val(potsdam, capsys):
    assert run('potsdam', potsdam, '--preset', 'co2s') == 0
    folder = potsdam / 'splits' / 'co2s'
    sizes = [len(read(folder / f'{role}.txt')) for role in ('train', 'val', 'test')]
    assert sizes == [97, 11, 11]
    assert read(folder / 'test.txt') == read(folder / 'val.txt')
    ratios = {path.name for path in folder.iterdir() if path.is_dir()}
    assert ratios == {'1-32', '1-24', '1-16', '1-8', '1-4'}
    assert len(read(folder / '1-24' / 'labeled.txt')) == 4
    assert all(len(line.split()) == 1 for line in read(folder / '1-24' / 'unlabeled.txt'))
    manifest = verify_split(folder)
    assert manifest['partition']['recipe'] == 'tiles drawn at random, 90 : 10; test is val'
    assert manifest['labelled']['unit'] == 'any'
    told = capsys.readouterr().err
    assert 'warning: test is val' in told
    assert 'the published protocol divides 5472 tiles, here are 108' in told
    assert 'test: 100.0% of tiles have their scene in training' in told


def test_co2s_merges_the_folders_of_loveda(tmp_path):
    names = [f'{"train" if k < 12 else "val"}/{k}' for k in range(20)]
    root = converted(tmp_path, names, range(8))
    assert run('loveda', root, '--preset', 'co2s', '--ratios', '1-4') == 0
    folder = root / 'splits' / 'co2s'
    assert len(read(folder / 'train.txt')) == 18 and len(read(folder / '1-4/labeled.txt')) == 4
    assert {name.split('/')[0] for name in read(folder / 'train.txt')} == {'train', 'val'}


def test_co2s_is_for_its_data_sets(tmp_path, capsys):
    root = converted(tmp_path, [f'train/{k}' for k in range(9)], range(6))
    assert run('deepglobe', root, '--preset', 'co2s') == 2
    told = capsys.readouterr().err
    assert "--preset co2s is for whdld, loveda, potsdam, gid15, mer, msl, not 'deepglobe'" in told


@pytest.mark.parametrize(
    ('dataset', 'names', 'ids', 'scenes'),
    [
        ('whdld', [f'train/wh{k:04d}' for k in range(20)], range(1, 7), [12, 4, 4]),
        (
            'gid15',
            grid_names({f'GF2_PMS1__L1A{k}-MSS1': 'train' for k in range(10)}, 3, window=8),
            range(15),
            [6, 2, 2],
        ),
        (
            'mer',
            [f'train/1P{k:09d}EFF{k // 2:04d}P2376L7M1' for k in range(40)],
            range(9),
            [12, 4, 4],
        ),
        ('msl', [f'train/{k}' for k in range(20)], range(9), [12, 4, 4]),
    ],
)
def test_scene_is_the_default_of_every_data_set(tmp_path, dataset, names, ids, scenes, capsys):
    root = converted(tmp_path, names, ids)
    assert run(dataset, root, '--ratios', '1-4') == 0
    manifest = verify_split(root / 'splits' / 'scene')
    assert [manifest['scenes'][role] for role in ('train', 'val', 'test')] == scenes
    assert manifest['leak']['test']['scene_in_training'] == 0
    assert manifest['classes_absent'] == {}
    assert 'shows no' not in capsys.readouterr().err


# --- classes


def test_class_that_is_nowhere_labelled_is_named(tmp_path, capsys):
    names = grid_names(SCENES, 3, window=8)
    without_car = {name: [1, 2, 3, 4, 6] for name in names}
    root = converted(tmp_path, names, without_car)
    assert run('potsdam', root, '--ratios', '1-4') == 0
    assert 'warning: train shows no car' in capsys.readouterr().err
    manifest = json.loads((root / 'splits' / 'scene' / 'manifest.json').read_text())
    assert manifest['classes_absent']['1-4/labeled'] == ['car']


@pytest.mark.parametrize('preset', ['scene', 'tile', 'official', 'dwl'])
def test_rare_class_is_in_the_smallest_labelled_set(tmp_path, preset):
    names = grid_names(SCENES, 3, window=8)
    rare = {name for name in names if name.endswith('_0_0_8_8')}  # a car in one tile of each scene
    ids = {name: [1, 2, 3, 4, 5, 6] if name in rare else [1, 2, 3, 4, 6] for name in names}
    root = converted(tmp_path, names, ids)
    redrawn = []
    for seed in range(4):
        options = ('--preset', preset, '--ratios', '1-4', '5pct', '--seed', str(seed))
        assert run('potsdam', root, *options, '--name', f'{preset}{seed}') == 0
        folder = root / 'splits' / f'{preset}{seed}'
        assert set(read(folder / '5pct' / 'labeled.txt')) & rare
        redrawn.append(json.loads((folder / 'manifest.json').read_text())['labelled']['redrawn'])
    assert max(redrawn) > 0  # the first draw alone would not do


# --- other data sets, imported lists


def test_own_data_set_with_own_names(tmp_path, capsys):
    names = [
        f't{scene_id}_p{part}_0_{x}' for scene_id in range(8) for part in range(3) for x in (0, 8)
    ]
    root = tmp_path / 'mine'
    for name in names:
        image = encode(np.zeros((8, 8), np.uint8), 'PNG')
        write_files(root, {f'images/{name}.jpg': image, f'labels/{name}.png': image})
    where = ('--img-dir', 'images', '--ann-dir', 'labels', '--img-suffix', '.jpg')
    assert run('mine', root, *where) == 2
    assert "names of 'mine' tell the scene of a tile: give --scene-regex" in capsys.readouterr().err
    assert run('mine', root, *where, '--scene-regex', '(t') == 2
    assert 'is no regular expression' in capsys.readouterr().err
    assert run('mine', root, *where, '--scene-regex', '^(t[0-9]+)_', '--ratios', '1-7') == 0
    folder = root / 'splits' / 'scene'
    scenes = [
        {n.split('_')[0] for n in read(folder / f'{r}.txt')} for r in ('train', 'val', 'test')
    ]
    assert [len(part) for part in scenes] == [5, 2, 1]
    assert len(set.union(*scenes)) == 8


def release_lists(folder: Path) -> dict[str, str]:
    def line(tile: str, number: int) -> str:
        stem = f'top_potsdam_{tile}_{number}'
        return f'images/{stem}_RGB.tif labels/{stem}_label.tif\n'

    texts = {
        'labeled': line('2_10', 1) + line('2_11', 5),
        'unlabeled': ''.join(line('2_12', n) for n in range(1, 10)),
        'val': line('2_13', 9),
        'test': line('2_14', 2) + line('2_10', 2),
    }
    write_files(folder, {f'{role}.txt': text.encode() for role, text in texts.items()})
    return {role: str(folder / f'{role}.txt') for role in texts}


def test_release_lists_are_imported(potsdam, tmp_path, capsys):
    paths = release_lists(tmp_path / 'lists')
    with Path(paths['val']).open('a') as listed:
        listed.write(Path(paths['val']).read_text())
    roles = {'1pct/labeled': 'labeled', '1pct/unlabeled': 'unlabeled', 'val': 'val', 'test': 'test'}
    items = [f'{role}={paths[name]}' for role, name in roles.items()]
    assert run('potsdam', potsdam, '--import-list', *items) == 0
    folder = potsdam / 'splits' / 'import'
    assert read(folder / '1pct' / 'labeled.txt') == ['train/2_10_0_0_8_8', 'train/2_11_8_8_16_16']
    assert read(folder / 'val.txt') == ['val/2_13_16_16_24_24'] * 2
    assert 'warning: val repeats tiles on 1 of its 2 lines' in capsys.readouterr().err
    assert len(read(folder / 'train.txt')) == 11
    leak = verify_split(folder)['leak']
    assert leak['val']['scene_in_training'] == 0
    assert leak['test']['scene_labelled'] == {'1pct': 0.5}


def test_co2s_lists_of_two_columns_are_imported(tmp_path):
    root = converted(tmp_path, [f'train/wh391{k}' for k in range(8)])
    texts = {
        'labeled': 'images/wh3917.jpg labels/wh3917.png\nimages/wh3912.jpg labels/wh3912.png\n',
        'unlabeled': ''.join(f'images/wh391{k}.jpg labels/wh391{k}.png\n' for k in (0, 1, 3, 4)),
        'val': 'images/wh3915.jpg labels/wh3915.png\n',
    }
    write_files(tmp_path / 'lists', {f'{role}.txt': text.encode() for role, text in texts.items()})
    roles = {'1-24/labeled': 'labeled', '1-24/unlabeled': 'unlabeled', 'val': 'val', 'test': 'val'}
    items = [f'{role}={tmp_path / "lists" / name}.txt' for role, name in roles.items()]
    assert run('whdld', root, '--name', 'co2s', '--import-list', *items) == 0
    folder = root / 'splits' / 'co2s'
    assert read(folder / '1-24' / 'labeled.txt') == ['train/wh3917', 'train/wh3912']
    assert read(folder / '1-24' / 'unlabeled.txt') == [f'train/wh391{k}' for k in (0, 1, 3, 4)]
    assert read(folder / 'test.txt') == read(folder / 'val.txt') == ['train/wh3915']


@pytest.mark.parametrize(
    ('items', 'message'),
    [
        (['1pct/labeled={labeled}'], 'has only one of 1pct/labeled and 1pct/unlabeled'),
        (['train={labeled}'], 'is not ROLE=FILE'),
        (['val={val}'], 'has no labelled and unlabelled list'),
        (['1pct/labeled=nowhere.txt'], 'nowhere.txt does not exist: give a text file'),
        (['1pct/labeled={folder}'], 'lists is a folder: give a text file'),
        (
            ['a/labeled={labeled}', 'a/unlabeled={labeled}'],
            '2 tiles are in the labelled and in the unlabelled list of a',
        ),
        (
            ['a/labeled={labeled}', 'a/unlabeled={unlabeled}', 'val={labeled}'],
            '2 tiles are in training and in the val list',
        ),
    ],
)
def test_bad_import_is_one_sentence(potsdam, tmp_path, items, message, capsys):
    paths = release_lists(tmp_path / 'lists')
    filled = [item.format(**paths, folder=tmp_path / 'lists') for item in items]
    assert run('potsdam', potsdam, '--import-list', *filled) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.startswith('error: ') and len(told.splitlines()) == 1
    assert not (potsdam / 'splits').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--ratios', '1/4'], "The ratio '1/4' is no share"),
        (['--ratios', '1-1'], 'leaves none unlabelled'),
        (['--shares', '0', '1', '1'], 'Shares of train, val and test'),
        (['--scene-regex', 'x+'], "'x+' does not occur in '2_10'"),
    ],
)
def test_bad_option_is_one_sentence(potsdam, options, message, capsys):
    assert run('potsdam', potsdam, *options) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.startswith('error: ') and len(told.splitlines()) == 1


def test_nothing_converted(tmp_path, capsys):
    assert run('potsdam', tmp_path / 'no') == 2
    assert (
        'convert the data set with python tools/dataset_converters/DATASET.py'
        in capsys.readouterr().err
    )


def test_other_split_of_that_name_is_kept(potsdam, capsys):
    assert run('potsdam', potsdam, '--ratios', '1-4') == 0
    before = (potsdam / 'splits' / 'scene' / 'train.txt').read_bytes()
    assert run('potsdam', potsdam, '--ratios', '1-4', '--seed', '1') == 2
    assert '--overwrite' in capsys.readouterr().err
    assert (potsdam / 'splits' / 'scene' / 'train.txt').read_bytes() == before
    assert run('potsdam', potsdam, '--ratios', '1-4', '--seed', '1', '--overwrite') == 0
    assert (potsdam / 'splits' / 'scene' / 'train.txt').read_bytes() != before
