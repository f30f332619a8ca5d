# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_semi_rs.dataprep.convert import archives, conversion
from mmseg_semi_rs.dataprep.convert.archives import SourceError, SourceFile, find_sources
from mmseg_semi_rs.dataprep.convert.conversion import Cut, Job, convert, convert_one
from mmseg_semi_rs.dataprep.convert.raw_labels import ColourLabels, IdLabels
from mmseg_semi_rs.rasters.windows import (
    POTSDAM_TILES,
    Window,
    cut_window,
    parse_tile_name,
    tile_name,
    tile_windows,
    window_starts,
)
from tests._support.archives import (
    DEEPGLOBE,
    POTSDAM,
    encode,
    paint,
    random_ids,
    random_rgb,
    write_files,
    write_zip,
)

LEGEND = tuple((colour, class_id) for class_id, colour in POTSDAM.items())
PATTERN = re.compile(r'(\w+)_(image|label)\.png$')


def jobs_in(*locations: Path) -> list[Job]:
    found, broken = find_sources(locations, PATTERN)
    assert not broken
    files: dict[str, dict[str, list[SourceFile]]] = {}
    for match, source in found:
        files.setdefault(match[1], {'image': [], 'label': []})[match[2]].append(source)
    return [
        Job(key, 'train', tuple(kinds['image']), tuple(kinds['label']))
        for key, kinds in sorted(files.items())
    ]


def members(keys: str, height: int = 96, width: int = 80) -> dict[str, bytes]:
    found = {}
    for seed, key in enumerate(keys):
        found[f'{key}_image.png'] = encode(random_rgb(height, width, seed), 'PNG')
        label = paint(random_ids(POTSDAM, height, width, seed), POTSDAM)
        found[f'{key}_label.png'] = encode(label, 'PNG')
    return found


def load(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


# --- windows and names


@pytest.mark.parametrize(
    ('length', 'window', 'stride', 'edge', 'expected'),
    [
        (96, 64, 64, 'shift', [0, 32]),
        (96, 64, 64, 'pad', [0, 64]),
        (128, 64, 64, 'shift', [0, 64]),
        (128, 64, 64, 'pad', [0, 64]),
        (96, 64, 16, 'shift', [0, 16, 32]),
        (100, 64, 32, 'pad', [0, 32, 64]),
        (40, 64, 64, 'shift', [0]),
        (6000, 512, 512, 'shift', [*range(0, 5500, 512)[:11], 5488]),
        (6000, 512, 512, 'pad', [*range(0, 6000, 512)]),
        (2448, 512, 512, 'pad', [0, 512, 1024, 1536, 2048]),
    ],
)
def test_window_starts(length, window, stride, edge, expected):
    assert window_starts(length, window, stride, edge) == expected


@pytest.mark.parametrize('edge', ['shift', 'pad'])
@pytest.mark.parametrize(('height', 'width'), [(96, 80), (64, 64), (30, 130)])
@pytest.mark.parametrize('stride', [None, 24])
def test_windows_cover_every_pixel(edge, height, width, stride):
    seen = np.zeros((height, width), int)
    for x0, y0, x1, y1 in tile_windows(width, height, 64, stride, edge):
        assert (x1 - x0, y1 - y0) == (64, 64)
        seen[y0:y1, x0:x1] += 1
    assert seen.min() == 1 or stride
    assert seen.min() >= 1


def test_windows_run_row_by_row():
    assert tile_windows(128, 128, 64) == [
        (0, 0, 64, 64),
        (64, 0, 128, 64),
        (0, 64, 64, 128),
        (64, 64, 128, 128),
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((96, 64, 65, 'shift'), 'stride of 65 is larger than the window of 64'),
        ((96, 0, 0, 'shift'), 'at least 1 pixel'),
        ((96, 64, 64, 'wrap'), "not 'wrap'"),
    ],
)
def test_bad_windows(arguments, message):
    with pytest.raises(ValueError, match=message):
        window_starts(*arguments)


def test_names_are_those_of_mmseg():
    names = [tile_name('2_10', window) for window in tile_windows(6000, 6000, 512)]
    assert len(names) == 144
    assert names[0] == '2_10_0_0_512_512'
    assert names[-1] == '2_10_5488_5488_6000_6000'
    assert sum(map(len, POTSDAM_TILES.values())) * len(names) == 5472


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('train/2_10_0_512_512_1024', ('2_10', Window(0, 512, 512, 1024))),
        ('2_10', ('2_10', None)),
        ('val/2522', ('2522', None)),
        ('t1_p2_9_9_1_1', ('t1_p2_9_9_1_1', None)),
    ],
)
def test_parse_tile_name(name, expected):
    assert parse_tile_name(name) == expected


@pytest.mark.parametrize('fill', [0, 255])
def test_cut_window_fills_what_lies_outside(fill):
    pixels = np.full((4, 5), 7, np.uint8)
    cut = cut_window(pixels, Window(3, 2, 7, 6), fill)
    assert cut.shape == (4, 4)
    assert (cut[:2, :2] == 7).all()
    assert (cut == 7).sum() == 4 and (cut == fill).sum() == 12


# --- labels


def test_colours_become_ids():
    ids = random_ids(POTSDAM, 40, 48, 0)
    decoded = ColourLabels(LEGEND, 0).decode(Image.fromarray(paint(ids, POTSDAM)), 'x')
    assert (decoded.ids == ids).all() and decoded.ids.dtype == np.uint8
    assert decoded.notes == []


def test_known_defects_of_the_potsdam_labels_are_mended_and_told():
    ids = random_ids(POTSDAM, 40, 48, 0)
    painted = paint(ids, POTSDAM)
    painted[ids == 5] = (252, 255, 0)  # the cars of 6_7
    painted[ids == 3] = (9, 222, 221)  # 4_12 was compressed
    decoded = ColourLabels(LEGEND, 0, tolerance=88).decode(Image.fromarray(painted), '6_7')
    assert (decoded.ids == ids).all()
    (note,) = decoded.notes
    assert f'6_7 has {np.isin(ids, (3, 5)).sum()} pixels of colours near the legend' in note
    assert '(252, 255, 0)' in note and '(9, 222, 221)' in note


def test_unknown_colour_is_refused_with_file_colour_and_count():
    painted = paint(random_ids(POTSDAM, 16, 16, 0), POTSDAM)
    painted[3, :5] = (120, 130, 125)
    with pytest.raises(SourceError, match=r'^bad\.tif has 5 pixels .*\(120, 130, 125\).*--unknown'):
        ColourLabels(LEGEND, 0, tolerance=88).decode(Image.fromarray(painted), 'bad.tif')


@pytest.mark.parametrize(('unknown', 'expected'), [('nearest', 4), ('ignore', 0)])
def test_unknown_colour_by_request(unknown, expected):
    painted = paint(np.full((8, 8), 2, np.uint8), POTSDAM)
    painted[0, 0] = (100, 150, 100)
    labels = ColourLabels(LEGEND, 0, tolerance=10, unknown=unknown)
    decoded = labels.decode(Image.fromarray(painted), 'x')
    assert decoded.ids[0, 0] == expected
    assert (decoded.ids.ravel()[1:] == 2).all()
    assert decoded.notes


def test_tolerance_127_cuts_each_channel_at_128():
    legend = tuple((colour, class_id) for class_id, colour in DEEPGLOBE.items())
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    corner = np.where(rgb >= 128, 255, 0)
    rgb[(corner == (255, 0, 0)).all(2)] = 255  # red is no colour of the legend
    corner = np.where(rgb >= 128, 255, 0)
    decoded = ColourLabels(legend, 255, tolerance=127).decode(Image.fromarray(rgb), 'x')
    for class_id, colour in DEEPGLOBE.items():
        assert ((decoded.ids == class_id) == (corner == colour).all(2)).all()


def test_more_colours_than_a_few_are_told_apart_near_each_of_them():
    legend = tuple(((2 * index, 100, 200), index) for index in range(120))
    rgb = np.array([[(0, 100, 201), (140, 100, 200), (72, 100, 201), (0, 0, 0)]], np.uint8)
    decoded = ColourLabels(legend, 255, tolerance=1, unknown='ignore')
    assert decoded.decode(Image.fromarray(rgb), 'x').ids.tolist() == [[0, 70, 36, 255]]


def test_R13_ids_out_of_range_are_refused():
    ids = np.zeros((8, 8), np.uint8)
    ids[0, :3] = 9
    with pytest.raises(SourceError, match=r'^m\.png has 3 pixels of ids \[9\] .*\[1, 2, 3\]'):
        IdLabels(frozenset({1, 2, 3}), 0).decode(Image.fromarray(ids), 'm.png')


def test_coloured_picture_is_no_id_label():
    with pytest.raises(SourceError, match='3 channels'):
        IdLabels(frozenset({1}), 0).decode(Image.new('RGB', (4, 4)), 'm.png')


# --- files


@pytest.mark.parametrize('kind', ['zip', 'folder', 'zip in folder'])
def test_sources_in_any_packaging(tmp_path, kind):
    files = {'in/a_image.png': b'1', 'in/._a_image.png': b'2', 'in/readme.txt': b'3'}
    if kind == 'zip':
        location = write_zip(tmp_path / 'x.zip', files)
    elif kind == 'folder':
        location = write_files(tmp_path / 'x', files)
    else:
        write_zip(tmp_path / 'y' / 'x.zip', files)
        location = tmp_path / 'y'
    found, broken = find_sources([location], PATTERN)
    assert [source.member for _, source in found] == ['in/a_image.png']
    assert found[0][1].read() == b'1'
    assert broken == []


def test_broken_archive_is_named_and_others_are_read(tmp_path):
    write_zip(tmp_path / 'good.zip', {'a_image.png': b'1'})
    (tmp_path / 'torn.zip').write_bytes(b'PK\x03\x04 nothing more')
    found, broken = find_sources([tmp_path], PATTERN)
    assert len(found) == 1
    assert len(broken) == 1 and 'torn.zip' in broken[0] and 'download it again' in broken[0]


def test_absent_location(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        find_sources([tmp_path / 'nowhere'], PATTERN)


# --- conversion


@pytest.mark.parametrize('edge', ['shift', 'pad'])
def test_tiles_show_the_source(tmp_path, edge):
    source = write_files(tmp_path / 'in', members('ab'))
    out = tmp_path / 'out'
    report = convert(jobs_in(source), out, Cut(64, None, edge), ColourLabels(LEGEND, 0))
    assert report.failures == [] and len(report.done) == 2
    for seed, key in enumerate('ab'):
        rgb, ids = random_rgb(96, 80, seed), random_ids(POTSDAM, 96, 80, seed)
        for window in tile_windows(80, 96, 64, None, edge):
            name = f'train/{tile_name(key, window)}.png'
            inside = slice(window.y0, window.y1), slice(window.x0, window.x1)
            image, label = load(out / 'img_dir' / name), load(out / 'ann_dir' / name)
            assert image.shape == (64, 64, 3) and label.shape == (64, 64)
            height, width = ids[inside].shape
            assert (image[:height, :width] == rgb[inside]).all()
            assert (label[:height, :width] == ids[inside]).all()
    assert not list(out.rglob('*.part'))
    summary = json.loads((out / conversion.SUMMARY).read_text())
    assert summary['subsets']['train'] == {'images': 2, 'tiles': 8, 'labelled_tiles': 8}


@pytest.mark.parametrize('ignore_id', [0, 255])
def test_R19_padding_is_ignored_and_never_a_class(tmp_path, ignore_id):
    source = write_files(tmp_path / 'in', members('a'))
    out = tmp_path / 'out'
    convert(jobs_in(source), out, Cut(64, None, 'pad'), ColourLabels(LEGEND, ignore_id))
    corner = load(out / 'ann_dir' / 'train' / 'a_64_64_128_128.png')
    outside = np.ones((64, 64), bool)
    outside[: 96 - 64, : 80 - 64] = False
    assert (corner[outside] == ignore_id).all()
    assert not (corner[~outside] == ignore_id).any()
    image = load(out / 'img_dir' / 'train' / 'a_64_64_128_128.png')
    assert (image[outside] == 0).all()


def test_whole_images_keep_their_name(tmp_path):
    source = write_files(tmp_path / 'in', members('a'))
    convert(jobs_in(source), tmp_path / 'out', Cut(None), ColourLabels(LEGEND, 0))
    assert load(tmp_path / 'out' / 'img_dir' / 'train' / 'a.png').shape == (96, 80, 3)


def test_damaged_and_missing_files_are_named_and_others_go_on(tmp_path):
    files = members('abcdef')
    files['b_image.png'] = files['b_image.png'][:300]
    files['c_label.png'] = b'no image'
    del files['d_label.png']
    del files['e_image.png']
    files['f_label.png'] = encode(paint(random_ids(POTSDAM, 96, 88, 0), POTSDAM), 'PNG')
    source = write_files(tmp_path / 'in', files)
    report = convert(jobs_in(source), tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))
    assert [item.key for item in report.done] == ['a']
    b, c, d, e, f = report.failures
    assert 'b_image.png is damaged' in b and 'download it again' in b
    assert 'c_label.png is damaged or no image' in c
    assert 'd has an image but no label' in d
    assert 'e has a label but no image' in e
    assert 'f: the label is 88 x 96 pixels but the image 80 x 96' in f
    assert not [path for path in (tmp_path / 'out').rglob('*.png') if path.name[0] != 'a']


def test_byte_flipped_in_an_archive_is_found(tmp_path):
    path = write_zip(tmp_path / 'x.zip', members('a'))
    contents = bytearray(path.read_bytes())
    contents[2000] ^= 0xFF
    path.write_bytes(contents)
    report = convert(jobs_in(path), tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))
    (failure,) = report.failures
    assert 'x.zip!a_image.png cannot be read' in failure


def test_second_copy_of_a_label_stands_in_for_a_damaged_one(tmp_path):
    first, second = members('a'), {'a_label.png': members('a')['a_label.png']}
    first['a_label.png'] = first['a_label.png'][:100]
    (job,) = jobs_in(write_files(tmp_path / '1', first), write_files(tmp_path / '2', second))
    assert len(job.labels or ()) == 2
    report = convert([job], tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))
    assert report.failures == []
    assert 'taken from another file' in report.notes[0]


def test_images_published_without_label_get_none(tmp_path):
    source = write_files(tmp_path / 'in', members('a'))
    (job,) = jobs_in(source)
    convert([replace(job, labels=None)], tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 4
    assert not (tmp_path / 'out' / 'ann_dir').exists()


# --- resuming


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob('*.png')
    }


def test_resume_after_kill_equals_one_run(tmp_path, monkeypatch):
    source = write_files(tmp_path / 'in', members('abcd'))
    decoder = ColourLabels(LEGEND, 0)
    convert(jobs_in(source), tmp_path / 'whole', Cut(64), decoder)
    out = tmp_path / 'out'
    written = []

    def killed(path, pixels):
        if len(written) == 13:  # in the middle of b
            path.with_name(f'.{path.name}.part').write_bytes(b'half')
            raise KeyboardInterrupt
        written.append(path)
        original(path, pixels)

    original = conversion.write_png
    for writer in (archives, conversion):  # of images, of masks
        monkeypatch.setattr(writer, 'write_png', killed)
    with pytest.raises(KeyboardInterrupt):
        convert(jobs_in(source), out, Cut(64), decoder)
    monkeypatch.undo()
    with (out / conversion.JOURNAL).open('a') as log:
        log.write('{"key": "b", "sub')  # killed within a line
    before = snapshot(out)

    report = convert(jobs_in(source), out, Cut(64), decoder)
    assert report.skipped == 1 and len(report.done) == 4
    after = snapshot(out)
    kept = [name for name in before if Path(name).name.startswith('a_')]
    assert len(kept) == 8 and all(before[name] == after[name] for name in kept)
    whole = snapshot(tmp_path / 'whole')
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in whole.items()}
    assert not list(out.rglob('*.part'))
    again = convert(jobs_in(source), out, Cut(64), decoder)
    assert again.skipped == 4 and snapshot(out) == after
    assert again.notes == report.notes


def test_replaced_source_and_deleted_tile_are_converted_again(tmp_path):
    files = members('abc')
    source = write_files(tmp_path / 'in', files)
    out, decoder = tmp_path / 'out', ColourLabels(LEGEND, 0)
    convert(jobs_in(source), out, Cut(64), decoder)
    (source / 'a_image.png').write_bytes(encode(random_rgb(96, 80, 99), 'PNG'))
    (out / 'ann_dir' / 'train' / 'b_0_0_64_64.png').unlink()
    assert convert(jobs_in(source), out, Cut(64), decoder).skipped == 1
    tile = load(out / 'img_dir' / 'train' / 'a_0_0_64_64.png')
    assert (tile == random_rgb(96, 80, 99)[:64, :64]).all()
    assert (out / 'ann_dir' / 'train' / 'b_0_0_64_64.png').is_file()


def test_tiles_that_a_killed_run_of_another_source_replaced_are_converted_again(
    tmp_path, monkeypatch
):
    source = write_files(tmp_path / 'in', members('ab'))
    jobs = [[replace(job, key='x')] for job in jobs_in(source)]
    out, decoder = tmp_path / 'out', ColourLabels(LEGEND, 0)
    convert(jobs[0], out, Cut(64), decoder)
    before = [data for _, data in snapshot(out).values()]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SourceFile, 'write_tile', killed)  # its first label is written
        with pytest.raises(KeyboardInterrupt):
            convert(jobs[1], out, Cut(64), decoder)
    assert convert(jobs[0], out, Cut(64), decoder).skipped == 0
    assert [data for _, data in snapshot(out).values()] == before


def test_other_windows_are_not_mixed_in(tmp_path):
    source = write_files(tmp_path / 'in', members('a'))
    convert(jobs_in(source), tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))
    with pytest.raises(ValueError, match='cut with window 64, not window 32: choose another'):
        convert(jobs_in(source), tmp_path / 'out', Cut(32), ColourLabels(LEGEND, 0))
    with pytest.raises(ValueError, match='as of another data set: choose another'):
        convert(jobs_in(source), tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0, tolerance=9))
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='file is no folder'):
        convert(jobs_in(source), tmp_path / 'file', Cut(64), ColourLabels(LEGEND, 0))


def test_foreign_tiles_are_not_mixed_in(tmp_path):
    source = write_files(tmp_path / 'in', members('a'))
    write_files(tmp_path / 'out', {'img_dir/train/x.png': b'1'})
    with pytest.raises(ValueError, match='did not write'):
        convert(jobs_in(source), tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))


def test_two_images_of_one_name(tmp_path):
    (job,) = jobs_in(write_files(tmp_path / 'in', members('a')))
    with pytest.raises(ValueError, match='Two images are called train/a'):
        convert([job, job], tmp_path / 'out', Cut(64), ColourLabels(LEGEND, 0))


def test_workers_give_the_same_tiles(tmp_path):
    source = write_zip(tmp_path / 'x.zip', members('abcd'))
    one = convert(jobs_in(source), tmp_path / '1', Cut(64), ColourLabels(LEGEND, 0))
    two = convert(jobs_in(source), tmp_path / '2', Cut(64), ColourLabels(LEGEND, 0), workers=2)
    assert one == two
    assert {k: v[1] for k, v in snapshot(tmp_path / '1').items()} == {
        k: v[1] for k, v in snapshot(tmp_path / '2').items()
    }


def test_counts_are_those_of_the_tiles(tmp_path):
    (job,) = jobs_in(write_files(tmp_path / 'in', members('a', 64, 64)))
    (tmp_path / 'ann_dir' / 'train').mkdir(parents=True)
    (tmp_path / 'img_dir' / 'train').mkdir(parents=True)
    result = convert_one(job, tmp_path, Cut(64), ColourLabels(LEGEND, 0))
    ids, counts = np.unique(random_ids(POTSDAM, 64, 64, 0), return_counts=True)
    assert result.pixels == dict(zip(ids.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [((None, 32), 'needs a window'), ((64, 65), 'leave gaps'), ((0,), 'at least 1')],
)
def test_bad_cut(arguments, message):
    with pytest.raises(ValueError, match=message):
        Cut(*arguments)
