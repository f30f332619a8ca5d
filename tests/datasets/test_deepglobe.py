# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from mmseg_semi_rs.datasets import DeepGlobeDataset
from tests._support.archives import converted

NAMES = ('urban', 'agriculture', 'rangeland', 'forest', 'water', 'barren', 'unknown')


@pytest.fixture
def root(tmp_path):
    return converted(tmp_path, ['train/1_0_0_8_8'], [0, 1, 2, 3, 4, 5, 6, 255])


def build(root, **kwargs) -> DeepGlobeDataset:
    prefix = dict(img_path='img_dir', seg_map_path='ann_dir')
    return DATASETS.build(
        dict(type='DeepGlobeDataset', data_root=str(root), data_prefix=prefix, **kwargs)
    )


def ids(dataset: DeepGlobeDataset) -> list[int]:
    label = LoadAnnotations()(dataset.get_data_info(0))['gt_seg_map']
    return label.ravel()[:8].tolist()


def test_R20_unknown_is_no_class_by_default(root):
    dataset = build(root)
    assert dataset.metainfo['classes'] == NAMES[:6]
    assert ids(dataset) == [0, 1, 2, 3, 4, 5, 255, 255]
    assert dataset.metainfo['palette'][0] == [0, 255, 255]


def test_unknown_can_be_trained(root):
    dataset = build(root, train_unknown=True)
    assert dataset.metainfo['classes'] == NAMES
    assert ids(dataset) == [0, 1, 2, 3, 4, 5, 6, 255]
    assert dataset.metainfo['palette'][6] == [0, 0, 0]


@pytest.mark.parametrize('train_unknown', [False, True])
def test_palette_and_concepts_belong_to_the_classes(root, train_unknown):
    metainfo = build(root, train_unknown=train_unknown).metainfo
    assert len(metainfo['classes']) == len(metainfo['palette']) == len(metainfo['concepts'])
    assert all(len(names) >= 2 and all(names) for names in metainfo['concepts'])
    assert len({tuple(colour) for colour in metainfo['palette']}) == len(metainfo['palette'])


def test_a_choice_of_classes(root):
    dataset = build(root, metainfo=dict(classes=('water', 'forest')))
    assert ids(dataset) == [255, 255, 255, 1, 0, 255, 255, 255]
    assert dataset.metainfo['palette'] == [[0, 0, 255], [0, 255, 0]]
    assert [names[0] for names in dataset.metainfo['concepts']] == ['water', 'forest']


def test_unknown_class_name_is_refused(root):
    with pytest.raises(ValueError, match='sea'):
        build(root, metainfo=dict(classes=('sea',)))


def test_unlabelled_needs_no_label_path(tmp_path):
    converted(tmp_path, ['train/1'])
    dataset = DeepGlobeDataset(data_root=str(tmp_path), data_prefix=dict(img_path='img_dir'))
    assert 'seg_map_path' not in dataset.get_data_info(0)


def test_class_attribute_is_not_changed(root):
    before = np.array(DeepGlobeDataset.METAINFO['palette'])
    build(root)
    assert (np.array(DeepGlobeDataset.METAINFO['palette']) == before).all()
    assert DeepGlobeDataset.METAINFO['classes'] == NAMES
