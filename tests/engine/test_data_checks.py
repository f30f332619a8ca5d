# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset, LoveDADataset, PotsdamDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmseg_semi_rs.engine import data_checks as checks
from mmseg_semi_rs.engine.data_checks import (
    check_dataset_paths,
    check_disjoint,
    check_segmentation_dataset,
    check_semi_dataset,
)
from tests._support.archives import encode, random_rgb, write_files

BOTH = dict(img_path='img_dir', seg_map_path='ann_dir')


def fabricate(root: Path, names: str = 'abcd', labels: bool = True) -> Path:
    """Images of 24 x 16 pixels; labels 0..6, one row of each id and the rest 1."""
    files = {}
    for seed, name in enumerate(names):
        files[f'img_dir/{name}.png'] = encode(random_rgb(16, 24, seed), 'PNG')
        ids = np.ones((16, 24), np.uint8)
        ids[:7] = np.arange(7, dtype=np.uint8)[:, None]
        if labels:
            files[f'ann_dir/{name}.png'] = encode(ids, 'PNG')
    return write_files(root, files)


def potsdam(root: Path, **kwargs) -> PotsdamDataset:
    # unserialised: mmengine collects garbage for a second otherwise
    options = {'data_prefix': BOTH, 'serialize_data': False, **kwargs}
    return PotsdamDataset(data_root=str(root), **options)


def check(dataset, *args, **kwargs):
    return check_segmentation_dataset(dataset, *args, progress=False, **kwargs)


def overwrite(root: Path, name: str, ids: np.ndarray) -> Path:
    path = root / 'ann_dir' / f'{name}.png'
    path.write_bytes(encode(ids, 'PNG'))
    return path


# --- what a good dataset looks like


def test_summary_counts_pixels(tmp_path):
    summary = check(potsdam(fabricate(tmp_path)))
    assert (summary.images, summary.duplicates) == (4, 0)
    assert summary.sizes == {(24, 16): 4}
    expected = dict.fromkeys(potsdam(tmp_path).metainfo['classes'], 4 * 24)
    expected['impervious_surface'] = 4 * 24 * 10
    assert summary.class_pixels == expected
    assert summary.ignored_pixels == 4 * 24
    assert summary.ignored_share == pytest.approx(1 / 16)
    assert summary.class_shares['impervious_surface'] == pytest.approx(10 / 15)
    assert summary.absent_classes == []
    text = str(summary)
    assert '4 of 24 x 16' in text and 'building 6.7%' in text and 'ignored 6.2%' in text


def test_absent_class_is_told(tmp_path):
    fabricate(tmp_path, 'a')
    overwrite(tmp_path, 'a', np.full((16, 24), 3, np.uint8))
    summary = check(potsdam(tmp_path))
    absent = 'impervious_surface, building, tree, car, clutter'
    assert f'no pixel of {absent}: these masks neither teach nor score it' in str(summary)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(reduce_zero_label=True),
        dict(metainfo=dict(classes=('c', 'a'))),
        dict(metainfo=dict(classes=('c', 'a')), reduce_zero_label=True),
    ],
)
def test_class_ids_are_those_of_mmseg(tmp_path, kwargs):
    class Lettered(BaseSegDataset):
        METAINFO: ClassVar = dict(
            classes=('a', 'b', 'c', 'd', 'e', 'f', 'g'), palette=[[k] * 3 for k in range(7)]
        )

    fabricate(tmp_path, 'a')
    overwrite(
        tmp_path,
        'a',
        np.random.default_rng(0).choice([0, 1, 2, 3, 4, 5, 6, 255], (16, 24)).astype(np.uint8),
    )
    dataset = Lettered(data_root=str(tmp_path), data_prefix=BOTH, img_suffix='.png', **kwargs)
    loaded = LoadAnnotations()(dataset.get_data_info(0))['gt_seg_map']
    summary = check(dataset)
    expected = [int((loaded == k).sum()) for k in range(len(dataset.metainfo['classes']))]
    assert list(summary.class_pixels.values()) == expected
    assert summary.ignored_pixels == (loaded == 255).sum()


def test_a_loader_that_is_kept_in_memory_reads_labels_as_its_data_set_does(tmp_path):
    fabricate(tmp_path, 'a')
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=False)]
    kept = [dict(type='KeepInMemory', transforms=load)]
    init_default_scope('mmseg')
    for pipeline in (load, kept):
        with pytest.raises(ValueError, match='but LoadAnnotations in its pipeline False: leave it'):
            check(potsdam(tmp_path, pipeline=pipeline))


def test_wrappers_are_looked_through(tmp_path):
    fabricate(tmp_path / '1', 'ab')
    fabricate(tmp_path / '2', 'cde')
    both = ConcatDataset([potsdam(tmp_path / '1'), potsdam(tmp_path / '2')])
    assert check(both).images == 5
    (tmp_path / '2' / 'ann_dir' / 'd.png').unlink()
    for wrapped in (both, RepeatDataset(potsdam(tmp_path / '2'), times=5)):
        with pytest.raises(FileNotFoundError, match=r'has 1 problem: .*d\.png'):
            check(wrapped)


def test_lazy_dataset_is_loaded(tmp_path):
    assert check(potsdam(fabricate(tmp_path), lazy_init=True)).images == 4


def test_photographs_are_turned_as_the_loader_turns_them(tmp_path):
    fabricate(tmp_path, 'a')
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(random_rgb(24, 16, 0)).save(tmp_path / 'img_dir' / 'a.jpg', exif=exif)
    assert check(potsdam(tmp_path, img_suffix='.jpg')).sizes == {(24, 16): 1}


def test_duplicates_are_counted(tmp_path):
    fabricate(tmp_path)
    (tmp_path / 'list.txt').write_text('a\nb\na\n')
    summary = check(potsdam(tmp_path, ann_file='list.txt'))
    assert summary.duplicates == 1 and '1 of them occur more than once' in str(summary)


# --- I11: labelled files


def damage(root: Path, kind: str) -> tuple[type[Exception], str]:
    """Spoil sample b; the error, and what its message says of it."""
    label, image = root / 'ann_dir' / 'b.png', root / 'img_dir' / 'b.png'
    ones = np.ones((16, 24), np.uint8)
    if kind == 'label missing':
        label.unlink()
        return FileNotFoundError, f'label {label} does not exist'
    if kind == 'image missing':
        (root / 'list.txt').write_text('a\nb\n')
        image.unlink()
        return FileNotFoundError, f'image {image} does not exist'
    if kind == 'label cut off':
        label.write_bytes(label.read_bytes()[:60])
        return ValueError, f'label {label} cannot be read'
    if kind == 'label empty':
        label.write_bytes(b'')
        return ValueError, f'label {label} cannot be read'
    if kind == 'image no image':
        image.write_bytes(b'no image')
        return ValueError, f'image {image} cannot be read'
    if kind == 'other size':
        overwrite(root, 'b', ones[:, :20])
        return ValueError, f'label {label} is 20 x 16 pixels but its image 24 x 16'
    if kind == 'turned':
        overwrite(root, 'b', ones.T.copy())
        return ValueError, f'label {label} is 16 x 24 pixels but its image 24 x 16'
    if kind == 'coloured':
        label.write_bytes(encode(random_rgb(16, 24, 0), 'PNG'))
        return ValueError, f'label {label} has 3 channels'
    if kind == '16 bits':  # 256 would become 0 by wrap-around
        wide = ones.astype(np.uint16)
        wide[0, 0] = 256
        Image.fromarray(wide).save(label)
        return ValueError, f'label {label} has ids 256 outside 1..6'
    assert kind == 'ids'
    ones[0, :3] = (7, 9, 254)
    overwrite(root, 'b', ones)
    return ValueError, f'label {label} has ids 7, 9, 254 outside 1..6 and 0 or 255 (ignored)'


KINDS = [
    'label missing',
    'image missing',
    'label cut off',
    'label empty',
    'image no image',
    'other size',
    'turned',
    'coloured',
    '16 bits',
    'ids',
]


@pytest.mark.parametrize('kind', KINDS)
def test_I11_labelled_file_is_told_with_path_and_values(tmp_path, kind):
    fabricate(tmp_path)
    error, message = damage(tmp_path, kind)
    ann_file = 'list.txt' if kind == 'image missing' else ''
    with pytest.raises(error) as told:
        check(potsdam(tmp_path, ann_file=ann_file))
    text = str(told.value)
    assert text.startswith(f'PotsdamDataset ({tmp_path}') and 'has 1 problem: ' in text
    assert message in text
    assert 'tools/make_splits.py' in text and '\n' not in text


def test_R13_id_of_the_class_count_is_not_folded_into_the_last_class(tmp_path):
    fabricate(tmp_path, 'a')
    overwrite(tmp_path, 'a', np.full((16, 24), 7, np.uint8))
    with pytest.raises(ValueError, match=r'has ids 7 outside 1\.\.6'):
        check(potsdam(tmp_path))
    assert check(LoveDADataset(data_root=str(tmp_path), data_prefix=BOTH)).images == 1


def test_ids_beside_a_label_map_are_found(tmp_path):
    fabricate(tmp_path, 'a')
    overwrite(tmp_path, 'a', np.full((16, 24), 8, np.uint8))
    with pytest.raises(ValueError, match=r'has ids 8 outside 1\.\.6'):
        check(potsdam(tmp_path, metainfo=dict(classes=('car', 'tree'))))


def test_all_problems_are_counted_and_ten_listed(tmp_path):
    names = 'abcdefghijklmnop'
    fabricate(tmp_path, names)
    for name in names[:13]:
        overwrite(tmp_path, name, np.full((16, 24), 99, np.uint8))
    (tmp_path / 'ann_dir' / 'p.png').unlink()
    with pytest.raises(ValueError) as told:
        check(potsdam(tmp_path))
    text = str(told.value)
    assert 'has 14 problems' in text and text.count('has ids 99') == 10 and 'and 4 more' in text


def test_cut_off_image_is_found_when_images_are_decoded(tmp_path):
    fabricate(tmp_path, 'a')
    path = tmp_path / 'img_dir' / 'a.png'
    path.write_bytes(path.read_bytes()[:200])
    assert check(potsdam(tmp_path), decode_images=False).images == 1
    with pytest.raises(ValueError, match=r'a\.png cannot be read'):
        check(potsdam(tmp_path))


def test_empty_list_is_told(tmp_path):
    fabricate(tmp_path)
    (tmp_path / 'list.txt').write_text('')
    with pytest.raises(ValueError, match=r'list\.txt\) is empty: check its ann_file'):
        check(potsdam(tmp_path, ann_file='list.txt'))
    leaf = dict(data_root=str(tmp_path), ann_file='list.txt', data_prefix=BOTH)
    with pytest.raises(ValueError, match=r'^dataset\.ann_file is .*list\.txt, which is empty'):
        check_dataset_paths(leaf)


def test_labelled_dataset_without_label_folder_is_told(tmp_path):
    fabricate(tmp_path)
    dataset = potsdam(tmp_path, data_prefix=dict(img_path='img_dir'))
    with pytest.raises(ValueError, match='give its dataset a data_prefix with seg_map_path'):
        check(dataset)


# --- labelled and unlabelled


def semi(root: Path, labelled: str, unlabelled: str | None, **unlabelled_options):
    (root / 'l.txt').write_text('\n'.join(labelled))
    if unlabelled is None:
        return SimpleNamespace(labelled=potsdam(root, ann_file='l.txt'), unlabelled=None)
    (root / 'u.txt').write_text('\n'.join(unlabelled))
    options = {'data_prefix': dict(img_path='img_dir'), **unlabelled_options}
    return SimpleNamespace(
        labelled=potsdam(root, ann_file='l.txt'),
        unlabelled=potsdam(root, ann_file='u.txt', **options),
    )


@pytest.mark.parametrize('with_label_path', [False, True])
def test_R22_no_label_of_an_unlabelled_image_is_opened(tmp_path, monkeypatch, with_label_path):
    fabricate(tmp_path, 'ab')
    fabricate(tmp_path, 'cd', labels=False)
    if with_label_path:
        (tmp_path / 'ann_dir' / 'c.png').write_bytes(b'no image')
    opened = []

    def recording(path, *args, **kwargs):
        opened.append(str(path))
        return original(path, *args, **kwargs)

    original = builtins.open
    monkeypatch.setattr(builtins, 'open', recording)
    dataset = semi(
        tmp_path, 'ab', 'cd', data_prefix=BOTH if with_label_path else dict(img_path='img_dir')
    )
    summary = check_semi_dataset(dataset, progress=False)
    assert summary.unlabelled is not None and summary.unlabelled.images == 2
    assert summary.unlabelled.class_pixels == {}
    assert str(tmp_path / 'ann_dir' / 'a.png') in opened
    assert not any('ann_dir/c' in path or 'ann_dir/d' in path for path in opened)
    assert 'labelled share: 50.00% of 4' in str(summary)


def test_supervised_training_has_no_unlabelled(tmp_path):
    fabricate(tmp_path)
    summary = check_semi_dataset(semi(tmp_path, 'abcd', None), progress=False)
    assert summary.unlabelled is None and summary.labelled.images == 4


def test_unlabelled_image_missing(tmp_path):
    fabricate(tmp_path)
    (tmp_path / 'img_dir' / 'd.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'd\.png does not exist'):
        check_semi_dataset(semi(tmp_path, 'ab', 'cd'), progress=False)


def test_R18_lists_must_be_disjoint(tmp_path):
    fabricate(tmp_path)
    with pytest.raises(ValueError) as told:
        check_semi_dataset(semi(tmp_path, 'abc', 'cbd'), progress=False)
    text = str(told.value)
    assert text.startswith('2 images are both in the labelled list') and 'l.txt' in text
    assert f'{tmp_path}/img_dir/b.png; {tmp_path}/img_dir/c.png' in text


def test_disjoint_sees_through_other_spellings(tmp_path):
    fabricate(tmp_path)
    (tmp_path / 'link').symlink_to(tmp_path / 'img_dir')
    lists = {
        'training': potsdam(tmp_path),
        'validation': potsdam(tmp_path, data_prefix=dict(img_path='link')),
    }
    with pytest.raises(ValueError, match='4 images are both in the training list'):
        check_disjoint(lists)


# --- configs


def test_good_config_passes(tmp_path):
    fabricate(tmp_path)
    (tmp_path / 'l.txt').write_text('a')
    leaf = dict(type='PotsdamDataset', data_root=str(tmp_path), ann_file='l.txt', data_prefix=BOTH)
    check_dataset_paths(dict(type='SemiDataset', labelled=leaf, unlabelled=leaf))
    check_dataset_paths(dict(type='RepeatDataset', dataset=leaf, times=2))
    check_dataset_paths(dict(type='PotsdamDataset', data_root='s3://bucket/x', ann_file='no.txt'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_root='nowhere'), r'x\.labelled\.data_root is nowhere, which is no folder'),
        (
            dict(ann_file='no.txt'),
            r'x\.labelled\.ann_file is .*no\.txt, which does not exist.*make_splits',
        ),
        (
            dict(data_prefix=dict(img_path='no')),
            r'x\.labelled\.data_prefix\.img_path is .*/no, which',
        ),
    ],
)
def test_R18_absent_list_is_told_before_anything_is_built(tmp_path, change, message):
    fabricate(tmp_path)
    leaf = dict(type='PotsdamDataset', data_root=str(tmp_path), data_prefix=BOTH)
    with pytest.raises(FileNotFoundError, match=message):
        check_dataset_paths(dict(labelled={**leaf, **change}, unlabelled=leaf), 'x')


def test_progress_bar_is_shown_on_request(tmp_path, capsys, monkeypatch):
    fabricate(tmp_path)
    monkeypatch.setenv('FORCE_COLOR', '1')
    check_segmentation_dataset(potsdam(tmp_path), name='these')
    assert 'checking these' in capsys.readouterr().err
    check(potsdam(tmp_path), name='these')
    assert capsys.readouterr().err == ''


def test_many_threads_and_one_agree(tmp_path):
    dataset = potsdam(fabricate(tmp_path, 'abcdefgh'))
    assert check(dataset, workers=1) == check(dataset, workers=8)
    assert checks.LISTED == 10


def test_an_image_is_decoded_once_until_its_file_changes(tmp_path, monkeypatch):
    dataset = potsdam(fabricate(tmp_path))
    decoded = []
    original = checks._image_size
    monkeypatch.setattr(
        checks,
        '_image_size',
        lambda path, *args, **kw: decoded.append(path) or original(path, *args, **kw),
    )
    assert check(dataset).sizes == {(24, 16): 4} and len(decoded) == 4
    assert check(dataset).sizes == {(24, 16): 4} and len(decoded) == 4
    image = tmp_path / 'img_dir' / 'b.png'
    contents = image.read_bytes()
    image.write_bytes(contents[: len(contents) // 2])
    for _ in range(2):
        with pytest.raises(ValueError, match=r'b\.png cannot be read'):
            check(dataset)
    assert decoded[4:] == [str(image)] * 2
    image.write_bytes(contents)
    check(dataset)


def test_images_are_decoded_where_nothing_can_be_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file' / 'cache'))
    (tmp_path / 'file').write_text('')
    assert check(potsdam(fabricate(tmp_path))).images == 4
