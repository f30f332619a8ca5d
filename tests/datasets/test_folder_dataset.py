# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Any folder of images as a dataset."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_semi_rs.classes import class_colours
from mmseg_semi_rs.datasets import FolderDataset, SemiDataset
from mmseg_semi_rs.datasets.tiles import load_tile
from mmseg_semi_rs.engine.data_checks import check_segmentation_dataset, check_semi_dataset

FILES = {
    'a.png': None, 'B.JPG': None, 'deep/c.tif': None, 'deep/d.x.jpeg': None, '.hidden.png': None,
    '.cache/e.png': None, 'notes.txt': 'no image',
}  # fmt: skip
MASKS = ('a.png', 'B.TIF', 'deep/d.x.png')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, (name, text) in enumerate(FILES.items()):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.fromarray(np.full((6, 8, 3), 20 * number, np.uint8)).save(path)
        else:
            path.write_text(text)
    for name in MASKS:
        path = tmp_path / 'masks' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 2, (6, 8), dtype=np.uint8)).save(path)
    return tmp_path


def make(folder, listed=None, masks=True, **options):
    prefix = dict(img_path='images', **(dict(seg_map_path='masks') if masks else {}))
    if listed is not None:
        (folder / 'list.txt').write_text('\n'.join(listed) + '\n\n')
        options['ann_file'] = 'list.txt'
    options.setdefault('classes', ('roof', 'bare_soil'))
    return FolderDataset(data_root=str(folder), data_prefix=prefix, **options)


def names(dataset, key='img_path'):
    return [dataset.get_data_info(k)[key].split('/images/')[-1].split('/masks/')[-1]
            for k in range(len(dataset))]  # fmt: skip


def test_suffixes_are_mixed_and_what_has_no_mask_is_unlabelled(folder):
    labelled, every = make(folder), make(folder, masks=False)
    assert names(labelled) == ['B.JPG', 'a.png', 'deep/d.x.jpeg']
    assert names(labelled, 'seg_map_path') == ['B.TIF', 'a.png', 'deep/d.x.png']
    assert names(every) == ['B.JPG', 'a.png', 'deep/c.tif', 'deep/d.x.jpeg']
    assert 'seg_map_path' not in every.get_data_info(0)


def test_lists_name_stems_or_files_in_their_order(folder):
    dataset = make(folder, ['deep/d.x', 'a', 'B.JPG'])
    assert names(dataset) == ['deep/d.x.jpeg', 'a.png', 'B.JPG']
    assert names(make(folder, ['deep\\d.x', 'deep\\c.tif'], masks=False)) == [
        'deep/d.x.jpeg',
        'deep/c.tif',
    ]  # a list of Windows


def test_names_that_mean_nothing_or_several_files_are_told(folder):
    with pytest.raises(FileNotFoundError, match=r'list\.txt names b, of which there is no image'):
        make(folder, ['b'])
    Image.new('RGB', (8, 6)).save(folder / 'images' / 'a.jpg')
    with pytest.raises(ValueError, match=r'names a, which may be a\.jpg or a\.png'):
        make(folder, ['a'])
    assert names(make(folder, ['a.jpg'])) == ['a.jpg']


def test_missing_mask_is_told_by_the_checks(folder):
    with pytest.raises(FileNotFoundError, match=r'label .*masks/deep/c\.png does not exist'):
        check_segmentation_dataset(make(folder, ['deep/c']), progress=False)


def test_classes_palette_and_concepts(folder):
    meta = make(folder).metainfo
    assert meta['classes'] == ('roof', 'bare_soil')
    assert meta['concepts'] == [['roof'], ['bare soil']]
    assert meta['palette'] == class_colours(['roof', 'bare_soil'])
    given = dict(classes=['x', 'y'], palette=[[1, 2, 3], [4, 5, 6]], concepts=['a', ['b', 'c']])
    for options in (given, dict(classes=None, metainfo=given)):
        meta = make(folder, **options).metainfo
        assert meta['classes'] == ('x', 'y')
        assert meta['palette'] == [[1, 2, 3], [4, 5, 6]]
        assert meta['concepts'] == [['a'], ['b', 'c']]
    with pytest.raises(ValueError, match='needs classes'):
        make(folder, classes=None)
    with pytest.raises(ValueError, match=r'2 classes \(roof, bare_soil\) but 1 entries of palette'):
        make(folder, palette=[[0, 0, 0]])


@pytest.mark.parametrize('count', [2, 10, 11, 40])
def test_colours_differ(count):
    colours = class_colours(['water', 'road', *(f'class_{k}' for k in range(count - 2))])
    assert colours[:2] == [[36, 107, 206], [75, 75, 85]]
    assert len({tuple(colour) for colour in colours}) == count
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_works_in_a_semi_dataset_with_checks_and_tiles(folder):
    (folder / 'rest.txt').write_text('deep/c\n')
    common = dict(type='FolderDataset', classes=['r', 's'], data_root=str(folder))
    with_masks = dict(img_path='images', seg_map_path='masks')
    labelled = dict(common, data_prefix=with_masks, pipeline=LOAD)
    unlabelled = dict(
        common, ann_file='rest.txt', data_prefix=dict(img_path='images'), pipeline=LOAD[:1]
    )
    semi = DATASETS.build(dict(type='SemiDataset', labelled=labelled, unlabelled=unlabelled))
    assert isinstance(semi, SemiDataset)
    assert semi.source_sizes == [3, 1]
    summary = check_semi_dataset(semi, progress=False)
    assert summary.labelled.sizes == {(8, 6): 3}
    assert sum(summary.labelled.class_pixels.values()) == 3 * 48
    tile = load_tile(semi.labelled, 1)
    assert tile.path.endswith('a.png')
    assert tile.image.shape == (6, 8, 3)
    with Image.open(folder / 'masks' / 'a.png') as mask:
        assert (tile.labels == np.asarray(mask)).all()
