# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The data of the Co2S protocol: classes, ids on disk, concepts, and what the loaders deliver."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATA_SAMPLERS, DATASETS, METRICS

from mmseg_semi_rs.classes.concepts import CONCEPTS, class_concepts
from mmseg_semi_rs.dataprep.splits.draw import CLASS_IDS, CO2S
from mmseg_semi_rs.datasets import DeepGlobeDataset, GID15Dataset
from mmseg_semi_rs.utils.randomness import seeded
from tests._support.archives import GID15, MARS, WHDLD, encode, random_ids, random_rgb, write_files
from tests._support.tiny_training import ROOT

TYPES = {
    'whdld': 'WHDLDDataset',
    'loveda': 'LoveDADataset',
    'potsdam': 'PotsdamDataset',
    'gid15': 'GID15Dataset',
    'mer': 'MERDataset',
    'msl': 'MSLDataset',
}
# id on disk -> colour
NEW = {'whdld': WHDLD, 'gid15': GID15, 'mer': MARS, 'msl': MARS}
CLASSES = {'whdld': 6, 'loveda': 7, 'potsdam': 6, 'gid15': 15, 'mer': 9, 'msl': 9}
FIRST_ID = {'whdld': 1, 'loveda': 1, 'potsdam': 1, 'gid15': 0, 'mer': 0, 'msl': 0}
SIZE = {'whdld': (256, 256), 'msl': (500, 560)}  # height, width; the others do not depend on it


def config(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / f'co2s_{name}.py')


# --- concepts


def test_concepts_are_those_of_the_data_sets():
    assert set(CONCEPTS) == {*TYPES, 'deepglobe'}
    for name, kind in {**TYPES, 'deepglobe': 'DeepGlobeDataset'}.items():
        concepts = class_concepts(name)
        assert len(concepts) == len(DATASETS.get(kind).METAINFO['classes'])
        for names in concepts:
            assert len(names) >= 2 and len(set(names)) == len(names)
            assert all(text and text == text.strip() and '_' not in text for text in names)
        first = [names[0] for names in concepts]
        assert len(set(first)) == len(first)


@pytest.mark.parametrize('name', ['whdld', 'potsdam', 'gid15', 'mer', 'msl'])
def test_first_concept_is_the_class_in_words(name):
    classes = DATASETS.get(TYPES[name]).METAINFO['classes']
    first = [names[0] for names in class_concepts(name)]
    assert first == [text.replace('_', ' ') for text in classes]


def test_msl_has_the_concepts_of_mer():
    assert class_concepts('msl') == class_concepts('mer')


def test_C10_unknown_data_set_has_no_concepts():
    with pytest.raises(ValueError, match=r"no concepts for 'mars': choose one of .*potsdam, whdld"):
        class_concepts('mars')


def test_deepglobe_reads_its_concepts_from_the_one_place():
    assert DeepGlobeDataset.METAINFO['concepts'] == [list(n) for n in CONCEPTS['deepglobe']]


# --- classes and ids


@pytest.fixture
def one_tile(tmp_path):
    """Writes one tile whose label shows the given ids, and returns mmseg's view of the label."""

    def write(kind: str, ids: list[int], **kwargs) -> tuple[object, list[int]]:
        label = np.array([ids, ids], np.uint8)  # mmseg squeezes single rows
        files = {
            'img_dir/train/a.png': encode(np.zeros((*label.shape, 3), np.uint8), 'PNG'),
            'ann_dir/train/a.png': encode(label, 'PNG'),
        }
        write_files(tmp_path, files)
        dataset = DATASETS.build(
            dict(
                type=kind,
                data_root=str(tmp_path),
                data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'),
                **kwargs,
            )
        )
        loaded = LoadAnnotations()(dataset.get_data_info(0))['gt_seg_map']
        return dataset, loaded[0].tolist()

    return write


@pytest.mark.parametrize('name', NEW)
def test_ids_on_disk_become_the_classes_of_the_palette(one_tile, name):
    colours = {class_id: list(c) for class_id, c in NEW[name].items() if class_id != 255}
    ignored = 0 if name == 'whdld' else 255
    dataset, loaded = one_tile(TYPES[name], [ignored, *colours])
    assert loaded == [255, *range(CLASSES[name])]
    assert dataset.metainfo['palette'] == list(colours.values())
    assert len(dataset.metainfo['classes']) == CLASSES[name]
    assert dataset.metainfo['concepts'] == [list(names) for names in class_concepts(name)]


def test_whdld_without_the_shift_would_be_another_data_set(one_tile):
    _, loaded = one_tile('WHDLDDataset', [1, 6], reduce_zero_label=False)
    assert loaded == [1, 6]  # road, and no class at all
    _, loaded = one_tile('WHDLDDataset', [1, 6])
    assert loaded == [0, 5]


@pytest.mark.parametrize('name', NEW)
def test_palette_and_concepts_follow_a_choice_of_classes(one_tile, name):
    kind = DATASETS.get(TYPES[name])
    chosen = kind.METAINFO['classes'][4:1:-2]
    first = FIRST_ID[name]
    dataset, loaded = one_tile(
        TYPES[name], [first + 4, first + 3, first + 2], metainfo=dict(classes=chosen)
    )
    assert loaded == [0, 255, 1]
    assert dataset.metainfo['palette'] == [kind.METAINFO['palette'][k] for k in (4, 2)]
    assert dataset.metainfo['concepts'] == [list(class_concepts(name)[k]) for k in (4, 2)]
    with pytest.raises(ValueError, match='castle'):
        one_tile(TYPES[name], [first], metainfo=dict(classes=('castle',)))


@pytest.mark.parametrize('name', TYPES)
def test_ids_of_the_split_maker_are_those_of_the_data_set(name):
    classes = DATASETS.get(TYPES[name]).METAINFO['classes']
    assert CLASS_IDS[name] == dict(enumerate(classes, FIRST_ID[name]))


# --- loaders


@pytest.fixture
def on_disk(tmp_path):
    """The config of a data set, and two labelled and three unlabelled tiles of it on disk."""

    def write(name: str) -> Config:
        size = SIZE.get(name, (96, 96))
        ids = range(FIRST_ID[name], FIRST_ID[name] + CLASSES[name])
        for number in range(5):
            files = {f'img_dir/train/{number}.png': encode(random_rgb(*size, number), 'PNG')}
            if number < 2:  # C5: unlabelled images have no label files
                files[f'ann_dir/train/{number}.png'] = encode(random_ids(ids, *size, number), 'PNG')
            write_files(tmp_path, files)
        lists = {'labeled': 'train/0\ntrain/1\n', 'unlabeled': 'train/2\ntrain/3\ntrain/4\n'}
        lists.update(val='train/0\n', test='train/1\n')
        write_files(tmp_path / 'splits/co2s', {f'{k}.txt': v.encode() for k, v in lists.items()})
        cfg = config(name)
        train = cfg.train_dataloader.dataset
        train.labelled.ann_file = 'splits/co2s/labeled.txt'
        train.unlabelled.ann_file = 'splits/co2s/unlabeled.txt'
        for dataset in (
            train.labelled,
            train.unlabelled,
            cfg.val_dataloader.dataset,
            cfg.test_dataloader.dataset,
        ):
            assert dataset.data_root == f'data/{"loveda_1024" if name == "loveda" else name}'
            dataset.data_root = str(tmp_path)
        return cfg

    return write


@pytest.mark.parametrize('name', TYPES)
def test_a_batch_has_its_four_branches(on_disk, name):
    cfg = on_disk(name)
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    sampler = DATA_SAMPLERS.build(loader.sampler, default_args=dict(dataset=dataset, seed=0))
    drawn = list(itertools.islice(sampler, loader.batch_size))
    batch = pseudo_collate([dataset[draw] for draw in drawn])
    labelled, unlabelled = (2, 2) if name == 'whdld' else (1, 2)
    assert loader.batch_size == labelled + unlabelled
    assert set(batch['inputs']) == {'sup', 'weak', 'strong_1', 'strong_2'}
    crop = 256 if name == 'whdld' else 512
    for branch, values in batch['inputs'].items():
        there = [value for value in values if value is not None]
        assert len(there) == (labelled if branch == 'sup' else unlabelled)
        for image in there:
            assert image.dtype == torch.uint8 and max(image.shape[-2:]) <= crop
    for sample in batch['data_samples']['sup'][:labelled]:
        shown = set(sample.gt_sem_seg.data.unique().tolist())
        assert shown <= {*range(CLASSES[name])}
    views = [batch['inputs'][b][-1] for b in ('weak', 'strong_1', 'strong_2')]
    samples = [batch['data_samples'][b][-1] for b in ('weak', 'strong_1', 'strong_2')]
    assert len({sample.geometry for sample in samples}) == 1
    assert len({tuple(view.shape) for view in views}) == 1
    assert all('gt_sem_seg' not in sample and sample.valid.data.all() for sample in samples)


def test_strong_views_draw_their_photometry_apart(on_disk):
    cfg = on_disk('potsdam')
    pipeline = Compose(cfg.unlabelled_pipeline)
    image = Path(cfg.val_dataloader.dataset.data_root) / 'img_dir' / 'train' / '2.png'
    unchanged = {'strong_1': 0, 'strong_2': 0}
    different = 0
    for seed in range(40):
        with seeded(seed):
            views = pipeline(dict(img_path=str(image), seg_fields=[]))['inputs']
        for branch in unchanged:
            unchanged[branch] += torch.equal(views[branch], views['weak'])
        different += not torch.equal(views['strong_1'], views['strong_2'])
    assert different > 30
    # no colour jitter, no greyscale and no blur: 0.2 * 0.8 * 0.5 of the views
    assert all(count < 12 for count in unchanged.values())


@pytest.mark.parametrize(
    ('name', 'tile', 'longest'),
    [
        ('whdld', (256, 256), 1023),
        ('whdld', (64, 64), 1023),
        ('potsdam', (512, 512), 1023),
        ('mer', (1024, 1024), 1023),
        ('loveda', (1024, 1024), 2047),
        ('msl', (500, 560), 1146),
    ],
)
def test_sides_are_uniform_whatever_the_tile(name, tile, longest):
    resize = Compose([config(name).geometry.transforms[0]])
    sides = []
    for seed in range(60):
        with seeded(seed):
            shape = resize(dict(img=np.zeros((*tile, 1), np.uint8)))['img'].shape
        sides.append((min(shape[:2]), max(shape[:2])))
    shorter, longer = np.array(sides).T
    low = 512 if name == 'loveda' else 256
    assert low <= shorter.min() < 1.15 * low
    assert 0.9 * longest < longer.max() <= longest
    assert shorter.mean() == pytest.approx(2.5 * low, rel=0.1)
    assert np.abs(longer / shorter - max(tile) / min(tile)).max() < 0.01


@pytest.mark.parametrize('name', TYPES)
def test_test_images_have_the_published_size_and_labels_their_own(on_disk, name):
    cfg = on_disk(name)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.batch_size == 1
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == 1
        sample = dataset[0]
        own = SIZE.get(name, (96, 96))
        assert tuple(sample['inputs'].shape[1:]) == (own if name == 'loveda' else (512, 512))
        assert tuple(sample['data_samples'].gt_sem_seg.shape) == own
        assert sample['data_samples'].ori_shape == own
    assert [cfg[f'{role}_dataloader'].dataset.ann_file for role in ('val', 'test')] == [
        'splits/co2s/val.txt',
        'splits/co2s/test.txt',
    ]


@pytest.mark.parametrize('name', TYPES)
def test_every_class_counts(name):
    cfg = config(name)
    classes = DATASETS.get(cfg.val_dataloader.dataset.type).METAINFO['classes']
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        metric = METRICS.build(evaluator)
        metric.dataset_meta = dict(classes=classes)
        assert tuple(metric.averaged) == tuple(classes)
    assert len(classes) == CLASSES[name]
    assert set(TYPES) == set(CO2S)


def test_C5_no_label_of_an_unlabelled_image_is_opened(on_disk, tmp_path):
    cfg = on_disk('whdld')
    shutil.rmtree(tmp_path / 'ann_dir')
    dataset = DATASETS.build(cfg.train_dataloader.dataset.unlabelled)
    assert [dataset[k]['inputs']['weak'] is not None for k in range(3)] == [True] * 3


def test_palette_and_concepts_follow_an_order_of_the_classes():
    known = GID15Dataset.METAINFO
    order = tuple(reversed(known['classes']))
    metainfo = GID15Dataset(metainfo=dict(classes=order), lazy_init=True).metainfo
    assert metainfo['palette'] == [list(colour) for colour in reversed(known['palette'])]
    assert metainfo['concepts'] == [list(names) for names in reversed(known['concepts'])]
