# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from fractions import Fraction

import pytest

from mmseg_semi_rs.dataprep.splits import draw as splits
from mmseg_semi_rs.dataprep.splits.files import (
    Tiles,
    find_tiles,
    scan_labels,
    verify_split,
    write_split,
)
from mmseg_semi_rs.dataprep.splits.make import SplitOptions, make_split
from mmseg_semi_rs.dataprep.splits.release_lists import (
    TileIndex,
    read_release_list,
    semiearth_names,
)
from mmseg_semi_rs.rasters.windows import POTSDAM_TILES, tile_name, tile_windows
from tests._support.archives import converted, grid_names

POTSDAM = {tile: subset for subset, tiles in POTSDAM_TILES.items() for tile in tiles}
REGEX = splits.SCENE_REGEX['potsdam']
GF2 = 'GF2_PMS1__L1A0001064454-MSS1'
RATIOS = {name: splits.parse_ratio(name) for name in splits.RATIOS}


@pytest.fixture(scope='module')
def potsdam() -> list[str]:
    return grid_names(POTSDAM, 12, shift=144)


def scenes(names) -> set[str]:
    return {splits.scene_of(name, REGEX) for name in names}


# --- shares


@pytest.mark.parametrize(
    ('name', 'ratio'),
    [
        ('1-4', Fraction(1, 4)),
        ('1-32', Fraction(1, 32)),
        ('2-7', Fraction(2, 7)),
        ('1pct', Fraction(1, 100)),
        ('10pct', Fraction(1, 10)),
        ('0.5pct', Fraction(1, 200)),
    ],
)
def test_parse_ratio(name, ratio):
    assert splits.parse_ratio(name) == ratio


@pytest.mark.parametrize('name', ['0-4', '5-4', '1/4', '1-0', '0pct', '101pct', 'pct', '0.25', ''])
def test_bad_ratio(name):
    with pytest.raises(ValueError, match='is no share between 0 and 1'):
        splits.parse_ratio(name)


@pytest.mark.parametrize(
    ('tiles', 'name', 'expected'),
    [  # published counts
        (3283, '1pct', 32),
        (3283, '5pct', 164),
        (3283, '10pct', 328),
        (12045, '1pct', 120),
        (12045, '5pct', 602),
        (12045, '10pct', 1204),
        (10088, '5pct', 504),
        (4924, '1-32', 153),
        (4924, '1-4', 1231),
        (7, '1pct', 1),
    ],
)
def test_labelled_counts_are_the_published_ones(tiles, name, expected):
    assert splits.labelled_count(tiles, splits.parse_ratio(name)) == expected


# --- scenes


@pytest.mark.parametrize(
    ('dataset', 'name', 'scene'),
    [
        ('potsdam', 'train/2_10_0_512_512_1024', '2_10'),
        ('loveda', 'val/2522', '2522'),
        ('loveda', 'train/7_512_0_1024_512', '7'),
        ('deepglobe', 'train/855_2048_2048_2560_2560', '855'),
        ('whdld', 'train/wh3917', 'wh3917'),
        ('gid15', f'train/{GF2}_384_0_896_512', GF2),
        ('mer', 'train/1P129342946EFF0300P2376L7M1', '0300'),
        ('mer', 'train/1P315764937EFFA9X7P2276L1M1', 'A9X7'),
        ('mer', 'train/renamed_17', 'renamed_17'),
        ('msl', 'train/3923', '3923'),
    ],
)
def test_scene_of(dataset, name, scene):
    assert splits.scene_of(name, splits.SCENE_REGEX[dataset]) == scene


def test_scene_of_own_pattern():
    assert splits.scene_of('t3_p2_0_256', r'^(t\d+)_p') == 't3'
    assert splits.scene_of('t3_p2_0_256', r'^t\d+_p\d+') == 't3_p2'
    with pytest.raises(ValueError, match=r"'\^x' does not occur in 't3_p2_0_256'.*--scene-regex"):
        splits.scene_of('t3_p2_0_256', '^x')


# --- partition


@pytest.mark.parametrize('seed', [0, 1])
def test_partition_by_scene_keeps_scenes_together(potsdam, seed):
    partition = splits.draw_partition(potsdam, REGEX, seed)
    parts = (partition.train, partition.val, partition.test)
    assert [len(scenes(part)) for part in parts] == [23, 8, 7]
    assert not scenes(parts[0]) & scenes(parts[1])
    assert not scenes(parts[0]) & scenes(parts[2])
    assert not scenes(parts[1]) & scenes(parts[2])
    assert sorted(name for part in parts for name in part) == sorted(potsdam)


def test_partition_by_tile_has_the_published_sizes(potsdam):
    partition = splits.draw_partition(potsdam, REGEX, 0, unit='tile')
    assert [len(p) for p in (partition.train, partition.val, partition.test)] == [3283, 1094, 1095]


def test_R18_R23_partition_depends_on_the_seed_alone(potsdam):
    one = splits.draw_partition(potsdam, REGEX, 3)
    other_order = random.Random(0).sample(potsdam, len(potsdam))
    assert splits.draw_partition(other_order, REGEX, 3) == one
    assert splits.draw_partition(potsdam, REGEX, 4) != one


def test_seeded_draws_stay_what_they_are(potsdam):
    """Published results name a seed, so its lists must not change with a new version."""
    partition = splits.draw_partition(potsdam, REGEX, 0)
    order = splits.order_labelled(partition.train, REGEX, list(RATIOS.values()), 0)
    digest = hashlib.sha256('\n'.join([*partition.val, *order.order]).encode()).hexdigest()
    assert digest[:16] == '57a232358d1270b5'


@pytest.mark.parametrize(
    ('units', 'shares', 'expected'),
    [
        (38, (60, 20, 20), [23, 8, 7]),
        (3, (60, 20, 20), [1, 1, 1]),
        (4, (98, 1, 1), [2, 1, 1]),
        (10, (80, 20, 0), [8, 2, 0]),
    ],
)
def test_every_part_gets_its_share(units, shares, expected):
    names = [f'{k}_0' for k in range(units)]
    partition = splits.draw_partition(names, r'(\d+)', 0, shares)
    assert [len(p) for p in (partition.train, partition.val, partition.test)] == expected


@pytest.mark.parametrize('unit', ['scene', 'tile'])
def test_too_few_units(unit):
    with pytest.raises(ValueError, match=f'2 {unit}s cannot be divided into 3 parts'):
        splits.draw_partition(['a_0', 'b_0'], '^(.)', 0, unit=unit)


@pytest.mark.parametrize('shares', [(0, 1, 1), (1, -1, 1), (1, 1)])
def test_bad_shares(shares):
    with pytest.raises(ValueError, match='Shares of train, val and test'):
        splits.draw_partition(['a', 'b', 'c'], '.', 0, shares)


def test_partition_is_redrawn_until_every_part_shows_every_class():
    names = [f'{letter}_{k}' for letter in 'abcdefghij' for k in range(3)]
    rare = {'a', 'e', 'i'}  # class 2 is in three scenes: one for each part
    presence = {name: {1, 2} if name[0] in rare else {1} for name in names}
    plain = splits.draw_partition(names, '^(.)', 0)
    parts = (plain.train, plain.val, plain.test)
    assert any(splits.missing_ids(part, presence, [1, 2]) for part in parts)
    found = splits.draw_partition(names, '^(.)', 0, presence=presence, wanted=[1, 2])
    assert found.attempt > 0
    for part in (found.train, found.val, found.test):
        assert splits.missing_ids(part, presence, [1, 2]) == []


# --- labelled sets


@pytest.mark.parametrize('unit', ['auto', 'scene', 'tile', 'any'])
@pytest.mark.parametrize('seed', [0, 1])
def test_labelled_sets_are_nested_and_disjoint_from_unlabelled(potsdam, unit, seed):
    train = potsdam[:1440]
    order = splits.order_labelled(train, REGEX, list(RATIOS.values()), seed, unit)
    assert sorted(order.order) == sorted(train)
    sets = splits.labelled_sets(order.order, RATIOS)
    for name, ratio in RATIOS.items():
        labelled, unlabelled = sets[name]
        assert len(labelled) == 1440 * ratio.numerator // ratio.denominator
        assert sorted(labelled + unlabelled) == sorted(train)
    by_size = sorted((labelled for labelled, _ in sets.values()), key=len)
    for small, large in itertools.pairwise(by_size):
        assert set(small) < set(large)


def test_labelled_by_scene_fills_one_scene_after_the_other(potsdam):
    train = potsdam[: 144 * 10]
    order = splits.order_labelled(train, REGEX, [Fraction(1, 4)], 0, 'scene')
    assert len(scenes(order.order[: 2 * 144])) == 2
    assert len(scenes(order.order[: 2 * 144 + 72])) == 3


def test_labelled_by_tile_takes_every_scene_in_turn(potsdam):
    train = potsdam[: 144 * 10]
    order = splits.order_labelled(train, REGEX, [Fraction(1, 4)], 0, 'tile')
    assert len(scenes(order.order[:10])) == 10
    assert set(Counter(splits.scene_of(n, REGEX) for n in order.order[:50]).values()) == {5}


@pytest.mark.parametrize(
    ('count', 'tiles', 'ratio', 'unit', 'reason'),
    [
        (23, 4, '1-32', 'tile', 'would be 0.7 of 23 training scenes, fewer than 8'),
        (800, 4, '1pct', 'scene', 'is 8.0 of 800 training scenes'),
        (799, 4, '1pct', 'tile', 'would be 8.0 of 799'),
        (40, 1, '1-4', 'tile', 'every scene is one tile'),
    ],
)
def test_labelled_unit_is_chosen_and_explained(count, tiles, ratio, unit, reason):
    names = [f'{k}_{8 * t}_0_{8 * t + 8}_8' for k in range(count) for t in range(tiles)]
    order = splits.order_labelled(names, r'(\d+)', [splits.parse_ratio(ratio)])
    assert order.unit == unit and reason in order.reason


def test_smallest_labelled_set_shows_every_class():
    names = [f's{k:03d}' for k in range(200)]
    presence = {name: {1, 2} for name in names}
    presence['s137'] = {1, 2, 3}
    ratios = [Fraction(1, 4), Fraction(1, 20)]
    plain = splits.order_labelled(names, '.+', ratios)
    assert splits.missing_ids(plain.order[:10], presence, [1, 2, 3]) == [3]
    found = splits.order_labelled(names, '.+', ratios, 0, 'auto', presence, [1, 2, 3])
    assert found.attempt > 0 and found.missing == []
    assert 's137' in found.order[:10]
    assert splits.order_labelled(names, '.+', ratios, 0, 'auto', presence, [1, 2, 3]) == found


def test_class_that_no_draw_covers_is_named():
    names = [f's{k}' for k in range(40)]
    presence = {name: {k} for k, name in enumerate(names)}
    order = splits.order_labelled(names, '.+', [Fraction(1, 40)], 0, 'auto', presence, [0, 1])
    assert order.missing in ([0], [1])


def test_no_training_tiles():
    with pytest.raises(ValueError, match='no labelled training tiles'):
        splits.order_labelled([], '.+', [Fraction(1, 4)])


def test_R22_images_without_labels_are_unlabelled_only():
    sets = splits.labelled_sets(['a', 'b', 'c', 'd'], {'1-2': Fraction(1, 2)}, ['e', 'f'])
    assert sets == {'1-2': (['a', 'b'], ['c', 'd', 'e', 'f'])}


# --- SemiEarth


def test_semiearth_recipe_gives_the_published_heads():
    partition = splits.semiearth_partition(5472)
    assert partition.train[:3] == ['4889', '4812', '5420']
    assert partition.val[:3] == ['2414', '2068', '1185']
    assert partition.test[:3] == ['4249', '3276', '1289']
    assert [len(p) for p in (partition.train, partition.val, partition.test)] == [3283, 1094, 1095]
    assert len({*partition.train, *partition.val, *partition.test}) == 5472


@pytest.mark.parametrize('shift', [0, 144])
def test_semiearth_numbers_become_names(potsdam, shift):
    index = TileIndex('potsdam', grid_names(POTSDAM, 12, shift=shift))
    index.check_running_numbers()
    last = 5632 - shift
    assert index.scenes[0] == '2_10' and index.scenes[-1] == '7_13'
    assert index.running(1) == 'train/2_10_0_0_512_512'
    assert index.running(12) == f'train/2_10_{last}_0_{last + 512}_512'
    assert index.running(13) == 'train/2_10_0_512_512_1024'
    assert index.running(145) == 'train/2_11_0_0_512_512'
    assert index.running(5472) == f'val/7_13_{last}_{last}_{last + 512}_{last + 512}'
    assert index.running(0) is None and index.running(5473) is None
    # 4889 = 33 * 144 + 137: the 34th tile, row 11, column 4
    (head,) = semiearth_names(['4889'], index)
    assert head == f'train/7_9_2048_{last}_2560_{last + 512}'


def test_semiearth_order_of_images_is_a_choice(potsdam):
    natural = TileIndex('potsdam', potsdam)
    as_text = TileIndex('potsdam', potsdam, 'lexicographic')
    assert natural.scenes[22:26] == ['6_7', '6_8', '6_9', '6_10']
    assert as_text.scenes == sorted(POTSDAM)
    assert as_text.running(144 * 37 + 1) == 'train/7_9_0_0_512_512'


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (
            grid_names({k: v for k, v in POTSDAM.items() if k != '4_12'}, 12),
            r'38 images x 144 windows but there are 37 x 144 \(absent: 4_12\)',
        ),
        (grid_names(POTSDAM, 11), 'there are 38 x 121'),
    ],
)
def test_semiearth_needs_the_whole_data_set(names, message):
    with pytest.raises(ValueError, match=message):
        TileIndex('potsdam', names).check_running_numbers()


# --- Co2S


CO2S_NAMES = {
    'whdld': lambda: [f'train/wh{k:04d}' for k in range(1, 4941)],
    'loveda': lambda: [f'{"train" if k < 2522 else "val"}/{k}' for k in range(4191)],
    'potsdam': lambda: grid_names(POTSDAM, 12, shift=144),
    'gid15': lambda: [
        f'train/{tile_name(f"GF2_{k}", window)}'
        for k in range(10)
        for window in tile_windows(7200, 6800, 512, 384)
    ],
    'mer': lambda: [f'train/1P{k:09d}EFF{k // 8:04d}P2376L7M1' for k in range(1064)],
    'msl': lambda: [f'train/{k}' for k in range(3927)],
}


@pytest.mark.parametrize(
    ('dataset', 'sizes', 'sets'),
    [
        (
            'whdld',
            (4446, 494),
            {
                '1-32': (138, 4308),
                '1-24': (185, 4261),
                '1-16': (277, 4169),
                '1-8': (555, 3891),
                '1-4': (1111, 3335),
            },
        ),
        (
            'loveda',
            (3771, 420),
            {
                '1-40': (94, 3677),
                '1-24': (157, 3614),
                '1-16': (235, 3536),
                '1-8': (471, 3300),
                '1-4': (942, 2829),
            },
        ),
        (
            'potsdam',
            (4924, 548),
            {
                '1-32': (153, 4771),
                '1-24': (205, 4719),
                '1-16': (307, 4617),
                '1-8': (615, 4309),
                '1-4': (1231, 3693),
            },
        ),
        ('gid15', (2736, 684), {'1-8': (342, 2394), '1-4': (684, 2052)}),
        ('mer', (851, 213), {'1-8': (106, 745), '1-4': (212, 639)}),
        ('msl', (3141, 786), {'1-8': (392, 2749), '1-4': (785, 2356)}),
    ],
)
def test_co2s_counts_are_the_published_ones(tmp_path, dataset, sizes, sets):
    names = CO2S_NAMES[dataset]()
    options = SplitOptions(dataset, tmp_path, preset='co2s', no_coverage=True)
    split = make_split(options, Tiles(names, [], {}), progress=False)
    assert (len(split.train), len(split.val)) == sizes
    assert split.val == split.test and sorted(split.train + split.val) == sorted(names)
    assert {r: (len(some), len(rest)) for r, (some, rest) in split.sets.items()} == sets
    for labelled, unlabelled in split.sets.values():
        assert sorted(labelled + unlabelled) == sorted(split.train)
    by_size = sorted((labelled for labelled, _ in split.sets.values()), key=len)
    for small, large in itertools.pairwise(by_size):
        assert set(small) < set(large)
    (warning,) = split.warnings
    assert warning.startswith('test is val')


def test_co2s_lists_leak_and_tell_it(tmp_path):
    for dataset, scenes in (('potsdam', 1), ('gid15', 1), ('mer', 0.5), ('whdld', 0)):
        names = CO2S_NAMES[dataset]()
        options = SplitOptions(dataset, tmp_path, preset='co2s', no_coverage=True)
        leak = make_split(options, Tiles(names, [], {}), progress=False).recipe['leak']['test']
        assert leak['scene_in_training'] >= scenes
        if dataset == 'potsdam':  # published lists: 161 of 548
            assert 0.2 < leak['pixels_in_training'] < 0.4
        if dataset == 'gid15':
            assert leak['pixels_in_training'] > 0.99
        if dataset == 'whdld':
            assert leak['scene_in_training'] == 0 and leak['pixels_in_training'] is None


# --- imported lists


@pytest.mark.parametrize(
    ('dataset', 'entry', 'expected'),
    [
        (
            'potsdam',
            'images/top_potsdam_6_11_28_RGB.tif labels/top_potsdam_6_11_28_label.tif',
            'train/6_11_1536_1024_2048_1536',
        ),
        ('potsdam', 'images/145.jpg labels/145.png', 'train/2_11_0_0_512_512'),
        (
            'potsdam',
            'images/6_14_4608_512_5120_1024.png labels/6_14_4608_512_5120_1024.png',
            'val/6_14_4608_512_5120_1024',
        ),
        ('deepglobe', '384477_sat_3.jpg 384477_mask_3.png', 'train/384477_1024_0_1536_512'),
        ('loveda', 'Train/7_4.png', 'train/7_512_512_1024_1024'),
        ('loveda_1024', 'images/154.png labels/154.png', 'train/154'),
        ('whdld', 'images/wh3917.jpg labels/wh3917.png', 'train/wh3917'),
        ('gid15', f'images/{GF2}_0_1.tif labels/{GF2}_0_1.tif', f'train/{GF2}_384_0_896_512'),
        ('gid15', f'images/{GF2}_17_18.tif', f'train/{GF2}_6688_6288_7200_6800'),
        ('mer', 'images/1P129342946EFF0300P2376L7M1.jpg', 'train/1P129342946EFF0300P2376L7M1'),
        ('msl', 'images/5.jpg labels/5.png', 'train/5'),
    ],
)
def test_release_names_become_ours(potsdam, dataset, entry, expected):
    names = {
        'potsdam': potsdam,
        'deepglobe': grid_names({'384477': 'train', '855': 'train'}, 5),
        'loveda': grid_names({'7': 'train', '2522': 'val'}, 2),
        'loveda_1024': ['train/15', 'train/154', 'val/2522'],
        'whdld': ['train/wh0391', 'train/wh3917'],
        'gid15': [f'train/{tile_name(GF2, w)}' for w in tile_windows(7200, 6800, 512, 384)],
        'mer': ['train/1P129342946EFF0300P2376L7M1'],
        'msl': ['train/5', 'train/15'],
    }[dataset]
    index = TileIndex(dataset.removesuffix('_1024'), names)
    assert read_release_list(f'{entry}\n', index, 'l.txt') == [expected]


def test_gid15_tiles_outside_the_grid_are_not_found():
    names = [f'train/{tile_name(GF2, window)}' for window in tile_windows(7200, 6800, 512, 384)]
    index = TileIndex('gid15', names)
    with pytest.raises(ValueError, match=r'2 of 2 samples .*_18_0, .*_0_19'):
        read_release_list(f'{GF2}_18_0\n{GF2}_0_19', index, 'l.txt')


def test_numbers_hold_where_tiles_are_absent():
    names = grid_names({'855': 'train', '900': 'train'}, 5)
    names.remove('train/855_0_0_512_512')
    index = TileIndex('deepglobe', names)
    assert index.numbered('855', 1) is None
    assert index.numbered('855', 2) == 'train/855_512_0_1024_512'
    assert index.numbered('855', 26) is None


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r'l\.txt is empty'),
        ('a.jpg b.png c.png', r'Line 1 of l\.txt has 3 columns'),
        ('7_1.png\n9_1.png\n9_2.png', r'2 of 3 samples of l\.txt .*\(9_1\.png, 9_2\.png\)'),
    ],
)
def test_bad_release_list(text, message):
    with pytest.raises(ValueError, match=message):
        read_release_list(text, TileIndex('loveda', grid_names({'7': 'train'}, 2)), 'l.txt')


def test_a_name_that_two_folders_share_is_found_by_its_folder():
    index = TileIndex('mine', ['train/1', 'val/1', 'val/2'])
    assert read_release_list('train/1.png\nval/1\nimages/2.png', index, 'l.txt') == [
        *('train/1', 'val/1', 'val/2')
    ]
    with pytest.raises(ValueError, match=r'1\.png of a list may be train/1 or val/1: write'):
        read_release_list('1.png', index, 'l.txt')


# --- leaks


def test_leak_report_of_a_constructed_case():
    def tile(scene: str, x: int) -> str:
        return f'{scene}_{x}_0_{x + 8}_8'

    train = [tile('a', 0), tile('a', 8), tile('b', 0), tile('c', 0)]
    labelled = {'1-4': [tile('a', 0)], '1-2': [tile('a', 0), tile('b', 0)]}
    # a/4 overlaps a/0 and a/8; a/16 touches a/8 without overlap; b/8 is beside; d is new
    evaluation = [tile('a', 4), tile('a', 16), tile('b', 8), tile('d', 0)]
    leak = splits.leak_report(train, labelled, evaluation, r'^(.)')
    assert leak.scene_in_training == 3 / 4
    assert leak.pixels_in_training == 1 / 4
    assert leak.scene_labelled == {'1-4': 2 / 4, '1-2': 3 / 4}


def test_leaks_of_scene_and_tile_splits(potsdam):
    by_scene = splits.draw_partition(potsdam, REGEX, 0)
    none = splits.leak_report(by_scene.train, {}, by_scene.test, REGEX)
    assert (none.scene_in_training, none.pixels_in_training) == (0, 0)
    by_tile = splits.draw_partition(potsdam, REGEX, 0, unit='tile')
    leak = splits.leak_report(by_tile.train, {}, by_tile.test, REGEX)
    assert leak.scene_in_training == 1
    # with the last row and column moved inside, up to 44 of 144 tiles overlap a neighbour
    assert 0.1 < leak.pixels_in_training < 44 / 144


def test_leak_of_an_overlapping_sampling_is_total():
    names = [f'1_1_{x}_0_{x + 512}_512' for x in range(0, 5120, 256)]
    assert splits.leak_report(names[::2], {}, names[1::2], REGEX).pixels_in_training == 1


def test_overlap_is_unknown_where_names_have_no_windows():
    leak = splits.leak_report(['t1_p1', 't2_p1'], {}, ['t1_p2', 't3_p1'], r'^(t\d)')
    assert leak.scene_in_training == 0.5 and leak.pixels_in_training is None


# --- files


def test_tiles_and_their_classes_are_found(tmp_path):
    converted(
        tmp_path, ['train/a', 'val/b', 'train/c'], {'train/a': [1, 2], 'val/b': [0], 'train/c': [6]}
    )
    (tmp_path / 'ann_dir' / 'train' / 'c.png').unlink()
    (tmp_path / 'img_dir' / 'train' / '.a.png.part').write_bytes(b'half')
    tiles = find_tiles(tmp_path)
    assert tiles.labelled == ['train/a', 'val/b'] and tiles.unlabelled == ['train/c']
    assert scan_labels(tiles.labels, progress=False) == {'train/a': {1, 2}, 'val/b': {0}}


def test_no_tiles(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no \*\.png below .*img_dir: convert'):
        find_tiles(tmp_path)
    converted(tmp_path, ['train/a'])
    with pytest.raises(FileNotFoundError, match=r'nowhere.train.a\.png: correct --ann-dir'):
        find_tiles(tmp_path, ann_dir='nowhere')


def test_damaged_label_is_named(tmp_path):
    converted(tmp_path, ['train/a'])
    (tmp_path / 'ann_dir' / 'train' / 'a.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'a\.png cannot be read'):
        scan_labels(find_tiles(tmp_path).labels, progress=False)


LISTS = {'train': ['a', 'b', 'c'], '1-2/labeled': ['a'], '1-2/unlabeled': ['b', 'c']}


def test_manifest_holds_hashes(tmp_path):
    manifest = write_split(tmp_path, LISTS, {'seed': 3}, overwrite=False)
    assert json.loads((tmp_path / 'manifest.json').read_text()) == manifest
    assert manifest['seed'] == 3 and manifest['versions']['numpy']
    for path, names in LISTS.items():
        contents = (tmp_path / f'{path}.txt').read_bytes()
        assert contents == ''.join(f'{name}\n' for name in names).encode()
        entry = manifest['lists'][f'{path}.txt']
        assert entry == {'sha256': hashlib.sha256(contents).hexdigest(), 'lines': len(names)}
    assert verify_split(tmp_path) == manifest
    assert not list(tmp_path.rglob('*.part'))


def test_changed_or_missing_list_is_found(tmp_path):
    write_split(tmp_path, LISTS, {}, overwrite=False)
    (tmp_path / '1-2' / 'labeled.txt').write_text('b\n')
    with pytest.raises(ValueError, match=r'labeled\.txt has the hash .* changed by hand'):
        verify_split(tmp_path)
    (tmp_path / '1-2' / 'labeled.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'labeled\.txt does not exist though'):
        verify_split(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'manifest\.json does not exist'):
        verify_split(tmp_path / 'other')


def test_another_split_is_not_overwritten_unasked(tmp_path):
    write_split(tmp_path, LISTS, {}, overwrite=False)
    write_split(tmp_path, LISTS, {}, overwrite=False)
    other = {**LISTS, '1-2/labeled': ['c'], '1-2/unlabeled': ['a', 'b']}
    with pytest.raises(ValueError, match=r'labeled\.txt exists and differs .* --overwrite'):
        write_split(tmp_path, other, {}, overwrite=False)
    with pytest.raises(ValueError, match=r'would not be written again \(1-2/labeled\.txt'):
        write_split(tmp_path, {'train': ['a', 'b', 'c']}, {}, overwrite=False)
    verify_split(tmp_path)
    write_split(tmp_path, {'train': ['x']}, {}, overwrite=True)
    assert [path.name for path in sorted(tmp_path.rglob('*.*'))] == ['manifest.json', 'train.txt']
    verify_split(tmp_path)
